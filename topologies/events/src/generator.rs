//! Synthetic landing directories: seeded, with their truth.
//!
//! The same configuration gives the same bytes. Campaigns follow a Zipf law, users a heavy tail; a click follows its
//! impression after a log-normal delay (median 8 s, 99 % within 10 minutes); feeds are written in time order but for a
//! bounded disorder and a share of late records.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use apache_avro::{Codec, Schema, Writer};
use flate2::{Compression, GzBuilder};
use serde::Serialize;

use crate::reference::{Definitions, Truth, evaluate};
use crate::{BID_REQUEST_SCHEMA, BidRequest, Feed};

/// What to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratorConfig {
    /// Same seed, same bytes.
    pub seed: u64,
    /// Impressions, before duplicates.
    pub impressions: u64,
    /// Users.
    pub users: u64,
    /// Campaigns.
    pub campaigns: u64,
    /// Creatives of each campaign.
    pub creatives_per_campaign: u64,
    /// Share of impressions that are clicked.
    pub click_rate: f64,
    /// Share of clicks that convert.
    pub conversion_rate: f64,
    /// Bid requests, capped at 10,000.
    pub bid_requests: u64,
    /// Files of each feed.
    pub files_per_feed: u64,
    /// Impressions per second of event time.
    pub per_second: u64,
    /// How far records may be out of order, in ms; below the grace nothing of it is late.
    pub disorder_ms: i64,
    /// Share of records written twice.
    pub duplicate_rate: f64,
    /// Share of records that break the contract.
    pub malformed_rate: f64,
    /// Share of records that come an hour late.
    pub late_rate: f64,
    /// Packs every second file.
    pub compress: bool,
    /// First moment, in epoch milliseconds.
    pub start_ms: i64,
    /// The rules that the truth follows from.
    pub definitions: Definitions,
}

impl Default for GeneratorConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            impressions: 100_000,
            users: 20_000,
            campaigns: 40,
            creatives_per_campaign: 10,
            click_rate: 0.02,
            conversion_rate: 0.1,
            bid_requests: 1_000,
            files_per_feed: 4,
            per_second: 50,
            disorder_ms: 2_000,
            duplicate_rate: 0.005,
            malformed_rate: 0.001,
            late_rate: 0.000_1,
            compress: true,
            start_ms: 1_704_067_200_000,
            definitions: Definitions::default(),
        }
    }
}

/// SplitMix64: small, fast, and the same everywhere.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `[0, 1)`.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn happens(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Small numbers far more often than large ones.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rough law is enough"
    )]
    fn skewed(&mut self, bound: u64) -> u64 {
        let n = (bound.max(1) + 1) as f64;
        (n.powf(self.unit()) as u64)
            .saturating_sub(1)
            .min(bound.saturating_sub(1))
    }

    /// Milliseconds from an impression to its click.
    #[expect(clippy::cast_possible_truncation, reason = "minutes in milliseconds")]
    fn click_delay_ms(&mut self) -> i64 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        // ln(600 s / 8 s) at the 99th percentile, 2.326 standard deviations out.
        let delay = 8_000.0 * (1.856 * normal).exp();
        delay.min(3_600_000.0) as i64
    }
}

/// A record on its way into a file: where it sorts, and its bytes.
type Row = (i64, Vec<u8>);

/// Writes a landing directory under `out`, and its truth under `out/truth`.
///
/// # Errors
/// When something cannot be written.
pub fn generate(out: &Path, config: &GeneratorConfig) -> io::Result<Truth> {
    let mut random = Random(config.seed);
    write_dims(out, config)?;
    let mut impressions: Vec<Row> = Vec::new();
    let mut clicks: Vec<Row> = Vec::new();
    let mut conversions: Vec<Row> = Vec::new();
    for n in 0..config.impressions {
        let elapsed = i64::try_from(n * 1_000 / config.per_second.max(1)).unwrap_or(i64::MAX);
        let ts = config.start_ms + elapsed;
        let campaign = random.skewed(config.campaigns);
        let creative = random.below(config.creatives_per_campaign);
        let user = random.skewed(config.users);
        let cost = 40 + random.below(80);
        let site = random.below(50);
        let json = format!(
            "{{\"impression_id\":\"i{n:09}\",\"creative_id\":\"cr-{campaign}-{creative}\",\"user_id\":\"u{user:07}\",\
             \"timestamp\":{ts},\"website\":\"site-{site}.example\",\"cost_micros\":{cost}}}"
        );
        push(
            &mut impressions,
            ts,
            json.into_bytes(),
            b"{\"impression_id\":",
            &mut random,
            config,
        );
        if !random.happens(config.click_rate) {
            continue;
        }
        let click_ts = ts + random.click_delay_ms();
        let row = format!("{click_ts},u{user:07},c-{campaign},k{n:09}");
        push(
            &mut clicks,
            click_ts,
            row.into_bytes(),
            b"never,u,c",
            &mut random,
            config,
        );
        if random.happens(config.conversion_rate) {
            let ts = click_ts + random.click_delay_ms() * 10;
            let value = 1_000_000 * (1 + random.below(90));
            let row = format!("{ts},u{user:07},c-{campaign},purchase,v{n:09},{value},EUR");
            push(
                &mut conversions,
                ts,
                row.into_bytes(),
                b"0,u",
                &mut random,
                config,
            );
        }
    }
    write_feed(out, Feed::Impressions, "", impressions, config)?;
    write_feed(
        out,
        Feed::Clicks,
        "timestamp,user_id,campaign_id,click_id",
        clicks,
        config,
    )?;
    let header =
        "timestamp,user_id,campaign_id,conversion_type,conversion_id,value_micros,currency";
    write_feed(out, Feed::Conversions, header, conversions, config)?;
    write_bid_requests(out, config, &mut random)?;
    let truth = evaluate(out, &config.definitions)?;
    write_truth(&out.join("truth"), &truth)?;
    Ok(truth)
}

/// Adds a record where disorder, lateness and chance put it.
fn push(
    rows: &mut Vec<Row>,
    ts: i64,
    bytes: Vec<u8>,
    broken: &[u8],
    random: &mut Random,
    config: &GeneratorConfig,
) {
    let disorder = random.below(u64::try_from(config.disorder_ms).unwrap_or(0) + 1);
    let mut arrival = ts + i64::try_from(disorder).unwrap_or(0);
    if random.happens(config.late_rate) {
        arrival += 3_600_000;
    }
    if random.happens(config.duplicate_rate) {
        rows.push((arrival + 1_000, bytes.clone()));
    }
    if random.happens(config.malformed_rate) {
        rows.push((arrival, broken.to_vec()));
    }
    rows.push((arrival, bytes));
}

fn write_feed(
    out: &Path,
    feed: Feed,
    header: &str,
    mut rows: Vec<Row>,
    config: &GeneratorConfig,
) -> io::Result<()> {
    // Stable, so records that arrive at the same time keep the order they were made in.
    rows.sort_by_key(|row| row.0);
    fs::create_dir_all(out.join(feed.name()))?;
    let files = usize::try_from(config.files_per_feed.max(1)).unwrap_or(1);
    let per_file = rows.len().div_ceil(files).max(1);
    for (number, chunk) in rows.chunks(per_file).enumerate() {
        let packed = config.compress && number % 2 == 1;
        let suffix = if packed { ".gz" } else { "" };
        let name = format!("{}/part-{number:04}{}{suffix}", feed.name(), feed.suffix());
        let file = BufWriter::new(File::create(out.join(name))?);
        if packed {
            let mut writer = GzBuilder::new().mtime(0).write(file, Compression::fast());
            write_rows(&mut writer, header, chunk)?;
            writer.finish()?.flush()?;
        } else {
            let mut writer = file;
            write_rows(&mut writer, header, chunk)?;
            writer.flush()?;
        }
    }
    Ok(())
}

fn write_rows(writer: &mut impl Write, header: &str, rows: &[Row]) -> io::Result<()> {
    if !header.is_empty() {
        writeln!(writer, "{header}")?;
    }
    for (_, bytes) in rows {
        writer.write_all(bytes)?;
        writer.write_all(b"\n")?;
    }
    Ok(())
}

fn write_dims(out: &Path, config: &GeneratorConfig) -> io::Result<()> {
    fs::create_dir_all(out.join("dims"))?;
    let mut creatives = BufWriter::new(File::create(out.join("dims/creatives.csv"))?);
    let mut campaigns = BufWriter::new(File::create(out.join("dims/campaigns.csv"))?);
    writeln!(creatives, "creative_id,campaign_id,advertiser_id,name")?;
    writeln!(
        campaigns,
        "campaign_id,advertiser_id,name,start,end,budget_micros"
    )?;
    for campaign in 0..config.campaigns {
        let advertiser = campaign % 9;
        writeln!(
            campaigns,
            "c-{campaign},a-{advertiser},Campaign {campaign},2024-01-01,2024-12-31,"
        )?;
        for creative in 0..config.creatives_per_campaign {
            let name = format!("Creative {creative} of {campaign}");
            writeln!(
                creatives,
                "cr-{campaign}-{creative},c-{campaign},a-{advertiser},{name}"
            )?;
        }
    }
    creatives.flush()?;
    campaigns.flush()
}

fn write_bid_requests(out: &Path, config: &GeneratorConfig, random: &mut Random) -> io::Result<()> {
    if config.bid_requests == 0 {
        return Ok(());
    }
    let directory = out.join(Feed::BidRequests.name());
    fs::create_dir_all(&directory)?;
    let schema = Schema::parse_str(BID_REQUEST_SCHEMA).map_err(io::Error::other)?;
    let file = BufWriter::new(File::create(directory.join("part-0000.avro"))?);
    // The container's marker is random by default, and the same seed must give the same bytes.
    let mut writer = Writer::builder()
        .schema(&schema)
        .writer(file)
        .codec(Codec::Null)
        .marker([7; 16])
        .build()
        .map_err(io::Error::other)?;
    for n in 0..config.bid_requests.min(10_000) {
        let ts = config.start_ms + i64::try_from(n).unwrap_or(0) * 20;
        let text = format!(
            "{{\"id\":\"b{n:09}\",\"ts\":{ts},\"exchange\":\"x{}\",\"imp\":[{{\"id\":\"1\",\"kind\":\"BANNER\",\
             \"bidfloorcur\":\"USD\"}}],\"user\":{{\"id\":\"u{:07}\"}}}}",
            random.below(4),
            random.skewed(config.users)
        );
        let request: BidRequest = serde_json::from_str(&text).map_err(io::Error::other)?;
        writer.append_ser(request).map_err(io::Error::other)?;
    }
    writer.flush().map_err(io::Error::other)?;
    Ok(())
}

fn write_truth(directory: &Path, truth: &Truth) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    write_lines(
        &directory.join("attributed_clicks.jsonl"),
        &truth.attributed_clicks,
    )?;
    write_lines(
        &directory.join("attributed_conversions.jsonl"),
        &truth.attributed_conversions,
    )?;
    write_lines(
        &directory.join("campaign_minutes.jsonl"),
        &truth.campaign_minutes,
    )?;
    let buckets = serde_json::json!({ "files": truth.files });
    fs::write(
        directory.join("buckets.json"),
        serde_json::to_vec_pretty(&buckets)?,
    )
}

fn write_lines<T: Serialize>(path: &Path, rows: &[T]) -> io::Result<()> {
    let mut writer = BufWriter::new(File::create(path)?);
    for row in rows {
        serde_json::to_writer(&mut writer, row)?;
        writer.write_all(b"\n")?;
    }
    writer.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(seed: u64) -> GeneratorConfig {
        GeneratorConfig {
            seed,
            impressions: 3_000,
            bid_requests: 20,
            ..GeneratorConfig::default()
        }
    }

    fn bytes_of(config: &GeneratorConfig) -> Vec<(String, Vec<u8>)> {
        let directory = tempfile::tempdir().unwrap();
        generate(directory.path(), config).unwrap();
        let listing = crate::landing::list(directory.path()).unwrap();
        let read = |path: &str| fs::read(directory.path().join(path)).unwrap();
        listing
            .files
            .iter()
            .map(|file| (file.path.clone(), read(&file.path)))
            .collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_does_not() {
        assert!(bytes_of(&small(7)) == bytes_of(&small(7)));
        assert!(bytes_of(&small(7)) != bytes_of(&small(8)));
    }

    #[test]
    fn every_record_is_in_one_bucket_and_the_dirt_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let config = GeneratorConfig {
            malformed_rate: 0.01,
            late_rate: 0.01,
            // Long enough for what comes an hour late to be late.
            per_second: 1,
            ..small(3)
        };
        let truth = generate(directory.path(), &config).unwrap();
        let mut total = crate::reference::FileBuckets::default();
        for file in &truth.files {
            assert_eq!(file.file_error, None, "{}", file.path);
            let sum = file.valid + file.duplicate + file.quarantined + file.late;
            assert_eq!(file.lines, sum, "{}", file.path);
            total.duplicate += file.duplicate;
            total.quarantined += file.quarantined;
            total.late += file.late;
        }
        assert!(
            total.duplicate > 0 && total.quarantined > 0 && total.late > 0,
            "{total:?}"
        );
        assert!(
            truth
                .attributed_clicks
                .iter()
                .any(|click| click.impression_id.is_some())
        );
    }
}
