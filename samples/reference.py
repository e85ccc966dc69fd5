#!/usr/bin/env python3
"""Reference results for a landing directory, worked out without any streaming.

Reads every feed into memory and applies the definitions one after the other, so that the stream
processor can be checked against a program it shares nothing with. Slow and simple on purpose.

    python3 reference.py LANDING --click-window 30m --grace 5m --out DIR
    python3 reference.py LANDING --compare advertisex-out      print differences; exit code 1 if any

Writes attributed_clicks.jsonl (by click_id), attributed_conversions.jsonl (by conversion_id),
campaign_minutes.jsonl (by campaign_id, minute_start_ms) and buckets.json. Definitions:

- A feed is one directory (impressions, clicks, conversions, bid_requests), read files by path in byte
  order, then record by record. Blank lines are no records, nor is the header of a CSV file.
- A record is the first of these that holds:
    quarantined  it cannot be read: not UTF-8, malformed, a required field missing or empty, a field of
                 the wrong type, a timestamp that is none, an impression whose campaign nobody knows
    duplicate    its id was on an earlier record of the feed that was not quarantined
    late         it is more than the grace below the greatest timestamp of all earlier records of its
                 feed that were not quarantined
    valid        otherwise; only these count in results
- Without an id, two records are the same event if feed, time, user, creative (impressions) or campaign
  (clicks, conversions), website and conversion type are equal. The id that the stream processor derives
  is not known here: it is printed as null, and `--compare` lets any id unknown to the input match it.
- A click is credited to the valid impression of its user and campaign that is the latest with
  click_ts - window <= impression_ts <= click_ts; at equal times the greatest impression_id in byte
  order. No such impression: null.
- A conversion is credited to the valid clicks of its user and campaign with
  conversion_ts - click window <= click_ts <= conversion_ts; if there are none, to the valid impressions
  within the view window. In order of time, then id, `last` and `first` credit that one; `linear` and
  `position` (40 % to the first and the last, the rest to those between; half and half for two) the 50
  latest at most, and truncated says how many more there are. Credits are whole micros that add up to the
  value: each is rounded down, then those that lost most get one more, of equal ones the earlier.
- A file that is empty, truncated or unreadable has file_error set and no records.

Needs Python 3.11. Zstandard files need Python 3.14, the module `zstandard` or the program `zstd`; Avro
files need the module `fastavro`.
"""

import argparse
import csv
import datetime
import gzip
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zlib
from collections import Counter, defaultdict

FEEDS = {"impressions": ".json", "clicks": ".csv", "conversions": ".csv", "bid_requests": ".avro"}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
COMPRESSIONS = ["", ".gz", ".zst"]
REQUIRED = {
    "impressions": ["creative_id", "user_id", "timestamp", "website"],
    "clicks": ["timestamp", "user_id", "campaign_id"],
    "conversions": ["timestamp", "user_id", "campaign_id", "conversion_type"],
    "bid_requests": ["timestamp", "id"],
}
ID_FIELD = {
    "impressions": "impression_id",
    "clicks": "click_id",
    "conversions": "conversion_id",
    "bid_requests": "id",
}
CANONICAL = ["ts", "user_id", "creative_or_campaign", "website", "conversion_type"]
BUCKETS = ["valid", "duplicate", "quarantined", "invalid_traffic", "late"]
NO_FASTAVRO = "not read: this needs the Python module fastavro"

YEAR_2000_S = 946_684_800
YEAR_2100_S = 4_102_444_800
UNITS_PER_SECOND = [1, 1_000, 1_000_000]
MINUTE_MS = 60_000
UNIT_MS = {"ms": 1, "s": 1_000, "m": MINUTE_MS, "h": 60 * MINUTE_MS, "d": 24 * 60 * MINUTE_MS}
EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)
INT64 = range(-(2**63), 2**63)


def main():
    options = arguments()
    results = compute(
        options.landing,
        options.click_window,
        options.grace,
        (options.conversion_click_window, options.conversion_view_window, options.model),
    )
    if options.out:
        write(options.out, results)
    unread = [f["path"] for f in results["buckets"]["files"] if f["file_error"] == NO_FASTAVRO]
    for path in unread:
        print(f"warning: {path} {NO_FASTAVRO}; its buckets are unknown", file=sys.stderr)
    print(summary(results))
    return compare(options.compare, results, unread) if options.compare else 0


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("landing", type=pathlib.Path)
    parser.add_argument("--click-window", type=duration_ms, default="30m")
    parser.add_argument("--conversion-click-window", type=duration_ms, default="7d")
    parser.add_argument("--conversion-view-window", type=duration_ms, default="1d")
    parser.add_argument("--model", choices=SHARES, default="last")
    parser.add_argument("--grace", type=duration_ms, default="5m")
    parser.add_argument("--out", type=pathlib.Path, help="where to write the four files")
    parser.add_argument("--compare", type=pathlib.Path, help="a directory with the same four files")
    options = parser.parse_args()
    if not options.landing.is_dir():
        parser.error(f"{options.landing} is not a directory")
    return options


def duration_ms(text):
    match = re.fullmatch(r"(\d+)(ms|s|m|h|d)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 500ms, 30m or 7d")
    return int(match[1]) * UNIT_MS[match[2]]


# --- the definitions ----------------------------------------------------------------------------


def compute(landing, window_ms, grace_ms, conversion_rules=None):
    campaign_of_creative = read_creatives(landing)
    valid, files, ids = {}, [], set()
    for feed in FEEDS:
        valid[feed], feed_files = classify_feed(landing, feed, grace_ms, campaign_of_creative, ids)
        files += feed_files
    files.sort(key=lambda file: file["path"].encode())
    return {
        "attributed_clicks": attribute(valid["clicks"], valid["impressions"], window_ms),
        "attributed_conversions": credit_conversions(valid, *(conversion_rules or CONVERSION_RULES)),
        "campaign_minutes": count_minutes(valid["impressions"], valid["clicks"]),
        "buckets": {"files": files},
        "ids": ids,
    }


def classify_feed(landing, feed, grace_ms, campaign_of_creative, ids):
    """The feed's valid events in reading order, and a row of buckets for each of its files."""
    valid, rows = [], []
    seen = set()
    greatest_ts = None
    for path in feed_files(landing, feed):
        counts = Counter()
        records, file_error = read_file(landing / path, FEEDS[feed])
        for record in records:
            try:
                event = to_event(feed, record, campaign_of_creative)
            except Quarantine:
                counts["quarantined"] += 1
                continue
            if event["id"] is not None:
                ids.add(event["id"])
            if identity(event) in seen:
                counts["duplicate"] += 1
            elif greatest_ts is not None and event["ts"] < greatest_ts - grace_ms:
                counts["late"] += 1
            else:
                counts["valid"] += 1
                valid.append(event)
            seen.add(identity(event))
            greatest_ts = event["ts"] if greatest_ts is None else max(greatest_ts, event["ts"])
        row = {"path": path, "lines": len(records)}
        row |= {bucket: counts[bucket] for bucket in BUCKETS}
        row["file_error"] = file_error
        rows.append(row)
    return valid, rows


def identity(event):
    if event["id"] is not None:
        return event["id"]
    return tuple(event[field] for field in CANONICAL)


def attribute(clicks, impressions, window_ms):
    touches = defaultdict(list)
    for impression in impressions:
        touches[impression["user_id"], impression["campaign_id"]].append(impression)
    rows = []
    for click in clicks:
        eligible = [
            impression
            for impression in touches[click["user_id"], click["campaign_id"]]
            if click["ts"] - window_ms <= impression["ts"] <= click["ts"]
        ]
        credited = max(eligible, key=lambda it: (it["ts"], (it["id"] or "").encode()), default=None)
        rows.append(
            {
                "click_id": click["id"],
                "campaign_id": click["campaign_id"],
                "click_ts": click["ts"],
                "impression_id": credited and credited["id"],
                "impression_ts": credited and credited["ts"],
            }
        )
    return sorted(rows, key=click_order)


# For n touches the share of each, as whole numbers; what they add up to is the whole.
SHARES = {
    "last": lambda n: [0] * (n - 1) + [1],
    "first": lambda n: [1] + [0] * (n - 1),
    "linear": lambda n: [1] * n,
    "position": lambda n: [1] * n if n < 3 else [40 * (n - 2), *[20] * (n - 2), 40 * (n - 2)],
}
CONVERSION_RULES = (7 * UNIT_MS["d"], UNIT_MS["d"], "last")
MAX_PATH = 50


def credit_conversions(valid, click_window_ms, view_window_ms, model):
    by_pair = {"clicks": defaultdict(list), "impressions": defaultdict(list)}
    for feed, pairs in by_pair.items():
        for event in valid[feed]:
            pairs[event["user_id"], event["campaign_id"]].append(event)
    rows = []
    for conversion in valid["conversions"]:
        pair, ts = (conversion["user_id"], conversion["campaign_id"]), conversion["ts"]
        touches = [("click", it) for it in by_pair["clicks"][pair] if ts - click_window_ms <= it["ts"] <= ts]
        if not touches:
            views = by_pair["impressions"][pair]
            touches = [("impression", it) for it in views if ts - view_window_ms <= it["ts"] <= ts]
        touches.sort(key=lambda it: (it[1]["ts"], (it[1]["id"] or "").encode()))
        truncated = 0
        if model in ("last", "first"):
            touches = touches[-1:] if model == "last" else touches[:1]
        else:
            truncated = max(0, len(touches) - MAX_PATH)
            touches = touches[truncated:]
        micros = share_out(conversion["value_micros"], SHARES[model](len(touches)))
        rows.append(
            {
                "conversion_id": conversion["id"],
                "campaign_id": conversion["campaign_id"],
                "conversion_type": conversion["conversion_type"],
                "conversion_ts": ts,
                "value_micros": conversion["value_micros"],
                "currency": conversion["currency"],
                "credits": [
                    {"touch": kind, "touch_id": it["id"], "touch_ts": it["ts"], "credit_micros": part}
                    for (kind, it), part in zip(touches, micros)
                ],
                "truncated": truncated,
            }
        )
    return sorted(rows, key=conversion_order)


def share_out(value, shares):
    total = sum(shares)
    exact = [divmod(abs(value) * share, total) for share in shares]
    parts = [part for part, _ in exact]
    by_loss = sorted(range(len(parts)), key=lambda i: (-exact[i][1], i))
    for i in by_loss[: abs(value) - sum(parts)]:
        parts[i] += 1
    return parts if value >= 0 else [-part for part in parts]


def count_minutes(impressions, clicks):
    impression_count, click_count, spend = Counter(), Counter(), Counter()
    for impression in impressions:
        impression_count[minute_of(impression)] += 1
        spend[minute_of(impression)] += impression["cost_micros"]
    for click in clicks:
        click_count[minute_of(click)] += 1
    rows = [
        {
            "campaign_id": key[0],
            "minute_start_ms": key[1],
            "impressions": impression_count[key],
            "clicks": click_count[key],
            "spend_micros": spend[key],
        }
        for key in impression_count.keys() | click_count.keys()
    ]
    return sorted(rows, key=minute_order)


def minute_of(event):
    return event["campaign_id"], event["ts"] // MINUTE_MS * MINUTE_MS


def click_order(row):
    """By click_id; rows whose id is unknown are told apart by the rest."""
    tail = (row["click_ts"], row["impression_ts"] or 0, row["impression_id"] or "")
    return (row["click_id"] or "").encode(), row["campaign_id"].encode(), tail


def conversion_order(row):
    """By conversion_id; rows whose id is unknown are told apart by the rest."""
    return (row["conversion_id"] or "").encode(), json.dumps(row, sort_keys=True)


def minute_order(row):
    return row["campaign_id"].encode(), row["minute_start_ms"]


# --- one record ---------------------------------------------------------------------------------


class Quarantine(Exception):
    """The record cannot be used; the message says why."""


def to_event(feed, record, campaign_of_creative):
    if isinstance(record, Quarantine):
        raise record
    for field in REQUIRED[feed]:
        if record.get(field) in (None, ""):
            raise Quarantine(f"{field} is missing")
    event = {
        "ts": timestamp_ms(record["timestamp"]),
        "id": text(record, ID_FIELD[feed]),
        "user_id": text(record, "user_id"),
        "campaign_id": text(record, "campaign_id"),
        "website": text(record, "website"),
        "conversion_type": text(record, "conversion_type"),
        "creative_or_campaign": text(record, "campaign_id"),
    }
    if feed == "impressions":
        creative_id = text(record, "creative_id")
        event["creative_or_campaign"] = creative_id
        event["campaign_id"] = event["campaign_id"] or campaign_of_creative.get(creative_id)
        if event["campaign_id"] is None:
            raise Quarantine(f"dim_missing: no campaign for creative {creative_id}")
        event["cost_micros"] = whole_number(record, "cost_micros")
    if feed == "conversions":
        event["value_micros"] = written_number(record, "value_micros")
        event["currency"] = text(record, "currency")
    return event


def text(record, field):
    """The field's text, or None if it is absent, null or empty."""
    value = record.get(field)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise Quarantine(f"{field} is not text")
    return value


def whole_number(record, field):
    value = record.get(field)
    if value is None:
        return 0
    if type(value) is not int or value not in INT64:
        raise Quarantine(f"{field} is not a whole number")
    return value


def written_number(record, field):
    """The whole number that the field's text says, 0 if there is none."""
    value = (text(record, field) or "0").strip()
    if not re.fullmatch(r"[+-]?\d+", value, re.ASCII) or int(value) not in INT64:
        raise Quarantine(f"{field} is not a whole number")
    return int(value)


ISO_8601 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d)(?::(\d\d)(?:[.,](\d+))?)?(?:[Zz]|([+-])(\d\d):?(\d\d)?)",
    re.ASCII,
)


def timestamp_ms(value):
    if isinstance(value, str):
        match = ISO_8601.fullmatch(value)
        if match:
            return in_range(iso_ms(match))
        if not re.fullmatch(r"\d{1,20}", value, re.ASCII):
            raise Quarantine(f"timestamp {value!r} is neither ISO 8601 with a zone nor a number")
        value = int(value)
    if type(value) is not int:
        raise Quarantine("timestamp is neither text nor a whole number")
    for units in UNITS_PER_SECOND:
        if YEAR_2000_S * units <= value < YEAR_2100_S * units:
            return value * 1_000 // units
    raise Quarantine(f"timestamp {value} is not between the years 2000 and 2100 in s, ms or us")


def iso_ms(match):
    date, minutes, seconds, fraction, sign, zone_hours, zone_minutes = match.groups()
    zone = f"{sign}{zone_hours}:{zone_minutes or '00'}" if sign else "+00:00"
    try:
        moment = datetime.datetime.fromisoformat(f"{date}T{minutes}:{seconds or '00'}{zone}")
    except ValueError as error:
        raise Quarantine(f"timestamp: {error}") from None
    return whole_ms(moment) + int(((fraction or "") + "000")[:3])


def whole_ms(moment):
    return (moment - EPOCH) // datetime.timedelta(milliseconds=1)


def in_range(ts_ms):
    if not YEAR_2000_S * 1_000 <= ts_ms < YEAR_2100_S * 1_000:
        raise Quarantine("timestamp is not between the years 2000 and 2100")
    return ts_ms


# --- files --------------------------------------------------------------------------------------


class FileError(Exception):
    """The file as a whole cannot be used."""


def feed_files(landing, feed):
    """Paths relative to the landing directory, in byte order."""
    directory = landing / feed
    names = os.listdir(directory) if directory.is_dir() else []
    endings = tuple(FEEDS[feed] + compression for compression in COMPRESSIONS)
    return sorted((f"{feed}/{name}" for name in names if name.endswith(endings)), key=os.fsencode)


def read_file(path, kind):
    """Its records (a Quarantine stands for one that cannot be parsed) and its error, if any."""
    try:
        data = contents(path).removeprefix(BYTE_ORDER_MARK)
        if not data.strip():
            raise FileError("empty")
        return {".json": json_records, ".csv": csv_records, ".avro": avro_records}[kind](data), None
    except FileError as error:
        return [], str(error)


def contents(path):
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(f"unreadable: {error.strerror}") from None
    if path.suffix == ".gz":
        return gunzip(data)
    if path.suffix == ".zst":
        return unzstd(data) if data else data
    return data


def gunzip(data):
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise FileError(f"not a whole gzip file: {error}") from None


def unzstd(data):
    try:
        from compression import zstd  # Python 3.14
    except ImportError:
        pass
    else:
        try:
            return zstd.decompress(data)
        except zstd.ZstdError as error:
            raise FileError(f"not a whole Zstandard file: {error}") from None
    try:
        import zstandard
    except ImportError:
        return unzstd_by_program(data)
    plain = []
    while data:  # a file may hold several frames
        frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            plain.append(frame.decompress(data))
        except zstandard.ZstdError as error:
            raise FileError(f"not a whole Zstandard file: {error}") from None
        if not frame.eof:
            raise FileError("not a whole Zstandard file: it ends early")
        data = frame.unused_data
    return b"".join(plain)


def unzstd_by_program(data):
    program = shutil.which("zstd")
    if program is None:
        sys.exit("reading .zst needs Python 3.14, `pip install zstandard`, or the program zstd")
    done = subprocess.run([program, "-dcq"], input=data, capture_output=True)
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip()
        raise FileError(f"not a whole Zstandard file: {reason}")
    return done.stdout


def json_records(data):
    if data.lstrip().startswith(b"["):
        try:
            return [only_object(element) for element in parse_json(data)]
        except Quarantine as error:
            raise FileError(f"not a whole JSON array: {error}") from None
    return [json_record(line) for line in data.split(b"\n") if line.strip()]


def json_record(line):
    try:
        return only_object(parse_json(line))
    except Quarantine as error:
        return error


def only_object(value):
    return value if isinstance(value, dict) else Quarantine("not a JSON object")


def parse_json(data):
    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    try:
        value = json.loads(data.decode(), parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()  # refuses half of a surrogate pair
        return value
    except (ValueError, RecursionError) as error:
        raise Quarantine(str(error)) from None


def csv_records(data):
    csv.field_size_limit(2**31 - 1)
    lines = io.StringIO(data.decode(errors="surrogateescape"), newline="")
    rows = [row for row in csv.reader(lines) if row]
    return [csv_record(rows[0], row) for row in rows[1:]]


def csv_record(header, row):
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        return Quarantine("not UTF-8")
    if len(row) != len(header):
        return Quarantine(f"{len(row)} fields under {len(header)} columns")
    return dict(zip(header, row))


def avro_records(data):
    try:
        import fastavro
    except ImportError:
        raise FileError(NO_FASTAVRO) from None
    try:
        records = list(fastavro.reader(io.BytesIO(data)))
    except Exception as error:  # fastavro raises a different kind for each way to be broken
        if "install" in str(error):
            sys.exit(f"cannot read Avro: {error}")
        raise FileError(f"not a whole Avro file: {error}") from None
    return [bid_request(record) for record in records]


def bid_request(record):
    """A bid request under the field names of the other feeds."""
    moment = record.get("ts")
    if isinstance(moment, datetime.datetime):
        try:
            moment = in_range(whole_ms(moment))  # the schema says milliseconds: no other unit is tried
        except Quarantine as error:
            return error
    return {"id": record.get("id"), "timestamp": moment}


def read_creatives(landing):
    """The campaign of each creative; without the table, none is known."""
    for compression in COMPRESSIONS:
        path = landing / f"dims/creatives.csv{compression}"
        if path.exists():
            rows, error = read_file(path, ".csv")
            if error:
                sys.exit(f"{path}: {error}")
            known = [row for row in rows if isinstance(row, dict)]
            return {row.get("creative_id"): row.get("campaign_id") or None for row in known}
    return {}


# --- output and comparison ----------------------------------------------------------------------

ROW_FILES = ["attributed_clicks", "attributed_conversions", "campaign_minutes"]
ID_FIELDS = {"click_id", "impression_id", "conversion_id", "touch_id"}


def write(out, results):
    out.mkdir(parents=True, exist_ok=True)
    for name in ROW_FILES:
        lines = [json.dumps(row, separators=(",", ":"), ensure_ascii=False) for row in results[name]]
        save(out / f"{name}.jsonl", "".join(line + "\n" for line in lines))
    save(out / "buckets.json", json.dumps(results["buckets"], indent=1, ensure_ascii=False) + "\n")


def save(path, text):
    path.write_bytes(text.encode())


def summary(results):
    files, clicks = results["buckets"]["files"], results["attributed_clicks"]
    totals = {bucket: sum(file[bucket] for file in files) for bucket in ["lines", *BUCKETS]}
    credited = sum(row["impression_ts"] is not None for row in clicks)
    errors = sum(file["file_error"] is not None for file in files)
    conversions = results["attributed_conversions"]
    shared = sum(bool(row["credits"]) for row in conversions)
    return "\n".join(
        [
            f"{len(files)} files, {errors} with an error",
            ", ".join(f"{count} {name}" for name, count in totals.items()),
            f"{credited} of {len(clicks)} clicks credited",
            f"{shared} of {len(conversions)} conversions credited",
            f"{len(results['campaign_minutes'])} campaign minutes",
        ]
    )


def compare(directory, ours, unread):
    differences = []
    try:
        for name in ROW_FILES:
            lines = (directory / f"{name}.jsonl").read_bytes().splitlines()
            theirs = [without_derived_ids(json.loads(line), ours["ids"]) for line in lines]
            differences += multiset_difference(name, ours[name], theirs)
        theirs = comparable(json.loads((directory / "buckets.json").read_bytes()), unread)
    except (OSError, ValueError) as error:
        sys.exit(f"cannot compare with {directory}: {error}")
    differences += multiset_difference("buckets", comparable(ours["buckets"], unread), theirs)
    for line in differences[:20]:
        print(line)
    print(f"{len(differences)} differences" if differences else "no difference")
    return 1 if differences else 0


def without_derived_ids(row, known):
    ids = {field: row[field] if row[field] in known else None for field in ID_FIELDS & row.keys()}
    if "credits" in row:
        ids["credits"] = [without_derived_ids(credit, known) for credit in row["credits"]]
    return row | ids


def comparable(buckets, unread):
    """Buckets with the wording of errors left out, and without files that could not be read here."""
    rows = [row for row in buckets["files"] if row["path"] not in unread]
    return [row | {"file_error": row["file_error"] is not None} for row in rows]


def multiset_difference(name, expected, found):
    wanted, got = as_multiset(expected), as_multiset(found)
    lines = [f"{name}: missing {row} x{count}" for row, count in (wanted - got).items()]
    return lines + [f"{name}: too many {row} x{count}" for row, count in (got - wanted).items()]


def as_multiset(rows):
    return Counter(json.dumps(row, sort_keys=True) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
