//! Clicks and conversions against what they were credited to.

use std::collections::HashMap;

use attribution::{
    ATTRIBUTED_CLICKS, ATTRIBUTED_CONVERSIONS, Attribution, ConversionAttribution, Status,
};
use events::{AttributedClick, Click, Conversion, Impression, TouchKind};
use ingest::{CLICKS, CONVERSIONS, IMPRESSIONS};
use processor_core::clock::millis;
use processor_core::log::Log;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::{Check, Place, Report, Settings, Tally, VerifyError, each};
use crate::progress::grouped;

/// The latest time of each partition of a topic.
type Times = HashMap<i32, i64>;

/// Records that are none of their topic: of inputs elsewhere, where they are counted.
const ELSEWHERE: fn() -> Tally = Tally::default;

fn pair(user: &str, campaign: &str) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(&(user.len() as u64).to_le_bytes());
    hash.update(user.as_bytes());
    hash.update(campaign.as_bytes());
    hash.digest128()
}

/// A click and what is known of it.
struct KnownClick {
    at: Place,
    partition: i32,
    ts: i64,
    campaign_id: String,
    user_id: String,
    /// By recount: the latest impression of its user and campaign in the window before it, by time, then id.
    credited: Option<(i64, String)>,
    finals: u32,
    /// The final result, or the last provisional one.
    result: Option<(AttributedClick, Place)>,
}

/// Each click has one final result, or a provisional one while it is open, and it is the right one.
pub(super) fn check_clicks(
    log: &dyn Log,
    settings: &Settings,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let mut clicks: HashMap<u128, KnownClick> = HashMap::new();
    each(
        log,
        CLICKS,
        &mut ELSEWHERE(),
        &mut |partition, at, click: Click| {
            clicks
                .entry(xxh3_128(click.click_id.as_bytes()))
                .or_insert_with(|| KnownClick {
                    at: at.clone(),
                    partition,
                    ts: click.ts_ms,
                    campaign_id: click.campaign_id,
                    user_id: click.user_id,
                    credited: None,
                    finals: 0,
                    result: None,
                });
        },
    )?;
    let shown = credit(log, settings, &mut clicks)?;
    let mut check = Check::new(ATTRIBUTED_CLICKS, "");
    let (mut unreadable, mut unexpected) = (Tally::default(), Tally::default());
    let (mut repeated, mut finals) = (Tally::default(), 0_u64);
    each(
        log,
        ATTRIBUTED_CLICKS,
        &mut unreadable,
        &mut |_, at, result: Attribution| {
            let id = result.click.click_id.clone();
            let Some(known) = clicks.get_mut(&xxh3_128(id.as_bytes())) else {
                return unexpected.add(Some(&id), at);
            };
            // Nothing comes behind a final result, and a provisional one comes again only when it says something else.
            let same = known
                .result
                .as_ref()
                .is_some_and(|(before, _)| *before == result.click);
            if known.finals > 0 || (same && result.status == Status::Provisional) {
                return repeated.add(Some(&id), at);
            }
            if result.status == Status::Final {
                known.finals += 1;
                finals += 1;
            }
            known.result = Some((result.click, at.clone()));
        },
    )?;
    let (mut lost, mut wrong) = (Tally::default(), Tally::default());
    let (mut open, mut provisional) = (0_u64, 0_u64);
    for known in clicks.values() {
        match &known.result {
            Some((result, at)) => {
                provisional += u64::from(known.finals == 0);
                if !known.is_right(result) {
                    wrong.add(Some(&result.click_id), at);
                }
            }
            None if is_open(known.ts, settings, [shown.get(&known.partition)]) => open += 1,
            None => lost.add(None, &known.at),
        }
    }
    check.counted = format!(
        "{} clicks: {} final, {} provisional, {} still open",
        grouped(clicks.len()),
        grouped(finals),
        grouped(provisional),
        grouped(open)
    );
    check.tally("records that are none of this topic", &unreadable);
    check.tally("clicks without a result", &lost);
    check.tally("results too many", &repeated);
    check.tally("results of clicks that there are not", &unexpected);
    check.tally("results that are not those of a recount", &wrong);
    report.push(check);
    Ok(())
}

fn move_on(times: &mut Times, partition: i32, ts: i64) {
    let latest = times.entry(partition).or_insert(ts);
    *latest = ts.max(*latest);
}

/// Credits clicks by the definition, and says how far the impressions of each partition have come.
fn credit(
    log: &dyn Log,
    settings: &Settings,
    clicks: &mut HashMap<u128, KnownClick>,
) -> Result<Times, VerifyError> {
    let window_ms = millis(settings.click_window);
    let mut of_pair: HashMap<u128, Vec<u128>> = HashMap::new();
    for (id, click) in &*clicks {
        let pair = pair(&click.user_id, &click.campaign_id);
        of_pair.entry(pair).or_default().push(*id);
    }
    let mut times = Times::new();
    each(
        log,
        IMPRESSIONS,
        &mut ELSEWHERE(),
        &mut |partition, _, shown: Impression| {
            let ts = shown.ts_ms;
            move_on(&mut times, partition, ts);
            let pair = pair(&shown.user_id, shown.campaign());
            for id in of_pair.get(&pair).into_iter().flatten() {
                let Some(click) = clicks.get_mut(id) else {
                    continue;
                };
                let in_window = click.ts.saturating_sub(window_ms) <= ts && ts <= click.ts;
                let candidate = || (ts, shown.impression_id.clone());
                if in_window
                    && click
                        .credited
                        .as_ref()
                        .is_none_or(|best| *best < candidate())
                {
                    click.credited = Some(candidate());
                }
            }
        },
    )?;
    Ok(times)
}

/// Whether what could still change a result of `ts` has not come so far that it is final.
fn is_open<'a>(
    ts: i64,
    settings: &Settings,
    times: impl IntoIterator<Item = Option<&'a i64>>,
) -> bool {
    let closes_at = ts.saturating_add(settings.grace_ms());
    let mut times = times.into_iter();
    times.any(|time| time.is_none_or(|time| *time <= closes_at))
}

impl KnownClick {
    fn is_right(&self, result: &AttributedClick) -> bool {
        let (time, id) = match &self.credited {
            Some((time, id)) => (Some(*time), Some(id)),
            None => (None, None),
        };
        result.impression_ts == time
            && result.impression_id.as_ref() == id
            && result.click_ts == self.ts
            && result.campaign_id == self.campaign_id
            && result.user_id == self.user_id
    }
}

/// A conversion and what is known of it.
struct KnownConversion {
    at: Place,
    partition: i32,
    conversion: Conversion,
    revision: u32,
    finals: u32,
}

/// Each conversion has one final result, or a provisional one while it is open; revisions count up from 1; the credits are
/// those of touches that there are, and add up.
pub(super) fn check_conversions(
    log: &dyn Log,
    settings: &Settings,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let mut conversions: HashMap<u128, KnownConversion> = HashMap::new();
    each(
        log,
        CONVERSIONS,
        &mut ELSEWHERE(),
        &mut |partition, at, conversion: Conversion| {
            conversions
                .entry(xxh3_128(conversion.conversion_id.as_bytes()))
                .or_insert_with(|| KnownConversion {
                    at: at.clone(),
                    partition,
                    conversion,
                    revision: 0,
                    finals: 0,
                });
        },
    )?;
    let mut check = Check::new(ATTRIBUTED_CONVERSIONS, "");
    let (mut unreadable, mut unexpected) = (Tally::default(), Tally::default());
    let (mut repeated, mut wrong, mut unequal) =
        (Tally::default(), Tally::default(), Tally::default());
    let mut credited: Touches = HashMap::new();
    each(
        log,
        ATTRIBUTED_CONVERSIONS,
        &mut unreadable,
        &mut |_, at, result: ConversionAttribution| {
            let id = result.conversion.conversion_id.clone();
            let Some(known) = conversions.get_mut(&xxh3_128(id.as_bytes())) else {
                return unexpected.add(Some(&id), at);
            };
            if known.finals > 0 || result.revision != known.revision + 1 {
                repeated.add(Some(&id), at);
            }
            known.revision = result.revision;
            known.finals += u32::from(result.status == Status::Final);
            if !is_of(&known.conversion, &result) {
                wrong.add(Some(&id), at);
            }
            let credits = &result.conversion.credits;
            let sum: i128 = credits.iter().map(|c| i128::from(c.credit_micros)).sum();
            if !credits.is_empty() && sum != i128::from(known.conversion.value_micros) {
                unequal.add(Some(&id), at);
            }
            for credit in credits {
                let touch = touch_key(credit.touch, &credit.touch_id, credit.touch_ts);
                credited
                    .entry(touch)
                    .or_insert_with(|| (id.clone(), at.clone()));
            }
        },
    )?;
    let times = strike(log, &mut credited)?;
    let (mut lost, mut open) = (Tally::default(), 0_u64);
    for known in conversions.values().filter(|known| known.revision == 0) {
        let times = times.each_ref().map(|times| times.get(&known.partition));
        match is_open(known.conversion.ts_ms, settings, times) {
            true => open += 1,
            false => lost.add(None, &known.at),
        }
    }
    let mut made_up = Tally::default();
    for (id, at) in credited.values() {
        made_up.add(Some(id), at);
    }
    let finals = conversions
        .values()
        .filter(|known| known.finals > 0)
        .count();
    check.counted = format!(
        "{} conversions: {} final, {} provisional, {} still open",
        grouped(conversions.len()),
        grouped(finals),
        grouped(
            conversions
                .values()
                .filter(|k| k.finals == 0 && k.revision > 0)
                .count()
        ),
        grouped(open)
    );
    check.tally("records that are none of this topic", &unreadable);
    check.tally("conversions without a result", &lost);
    check.tally("results too many or out of their order", &repeated);
    check.tally("results of conversions that there are not", &unexpected);
    check.tally("results that are not of their conversion", &wrong);
    check.tally("results whose credits do not add up", &unequal);
    check.tally("credits of touches that there are not", &made_up);
    report.push(check);
    Ok(())
}

/// Touches that were credited, each with a conversion and the place of its result.
type Touches = HashMap<u128, (String, Place)>;

fn touch_key(kind: TouchKind, id: &str, ts: i64) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(&[u8::from(kind == TouchKind::Click)]);
    hash.update(&ts.to_le_bytes());
    hash.update(id.as_bytes());
    hash.digest128()
}

/// Strikes the touches out that there are; how far impressions and clicks of each partition have come.
fn strike(log: &dyn Log, credited: &mut Touches) -> Result<[Times; 2], VerifyError> {
    let (mut shown, mut clicked) = (Times::new(), Times::new());
    each(
        log,
        IMPRESSIONS,
        &mut ELSEWHERE(),
        &mut |partition, _, touch: Impression| {
            let ts = touch.ts_ms;
            move_on(&mut shown, partition, ts);
            credited.remove(&touch_key(TouchKind::Impression, &touch.impression_id, ts));
        },
    )?;
    each(
        log,
        CLICKS,
        &mut ELSEWHERE(),
        &mut |partition, _, touch: Click| {
            let ts = touch.ts_ms;
            move_on(&mut clicked, partition, ts);
            credited.remove(&touch_key(TouchKind::Click, &touch.click_id, ts));
        },
    )?;
    Ok([shown, clicked])
}

fn is_of(conversion: &Conversion, result: &ConversionAttribution) -> bool {
    let result = &result.conversion;
    result.campaign_id == conversion.campaign_id
        && result.user_id == conversion.user_id
        && result.conversion_type == conversion.conversion_type
        && result.conversion_ts == conversion.ts_ms
        && result.value_micros == conversion.value_micros
        && result.currency == conversion.currency
}
