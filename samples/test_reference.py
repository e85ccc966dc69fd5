#!/usr/bin/env python3
"""Hand-worked cases for reference.py: `python3 samples/test_reference.py`."""

import gzip
import json
import pathlib
import tempfile
import unittest

import reference

T0 = 1_574_553_600_000  # 2019-11-24T00:00:00Z
MINUTE = 60_000
CREATIVES = "creative_id,campaign_id,advertiser_id,name\ncr1,c1,a,one\n"


def impression(ts, **fields):
    event = {"creative_id": "cr1", "user_id": "u1", "timestamp": ts, "website": "w"} | fields
    return json.dumps(event).encode()


def clicks_csv(*rows):
    return "timestamp,user_id,campaign_id,click_id\n" + "".join(row + "\n" for row in rows)


def results(files, window=30 * MINUTE, grace=5 * MINUTE, conversion_rules=None):
    with tempfile.TemporaryDirectory() as directory:
        landing = pathlib.Path(directory)
        for path, data in ({"dims/creatives.csv": CREATIVES} | files).items():
            (landing / path).parent.mkdir(parents=True, exist_ok=True)
            (landing / path).write_bytes(data if isinstance(data, bytes) else data.encode())
        return reference.compute(landing, window, grace, conversion_rules)


def buckets(files, path, **options):
    row = next(r for r in results(files, **options)["buckets"]["files"] if r["path"] == path)
    assert row["lines"] == sum(row[bucket] for bucket in reference.BUCKETS)
    return {name: count for name, count in row.items() if name not in ("path", "lines") and count}


def impression_buckets(*lines, **options):
    return buckets({"impressions/a.json": b"\n".join(lines)}, "impressions/a.json", **options)


def credited(click_ts, *impressions):
    row, = results(
        {
            "impressions/a.json": b"\n".join(impressions),
            "clicks/a.csv": clicks_csv(f"{click_ts},u1,c1,k1"),
        },
    )["attributed_clicks"]
    return row["impression_id"]


class Attribution(unittest.TestCase):
    def test_both_ends_of_the_window_count(self):
        self.assertEqual(credited(T0 + 30 * MINUTE, impression(T0, impression_id="i")), "i")
        self.assertIsNone(credited(T0 + 30 * MINUTE + 1, impression(T0, impression_id="i")))
        self.assertEqual(credited(T0, impression(T0, impression_id="i")), "i")
        self.assertIsNone(credited(T0 - 1, impression(T0, impression_id="i")))

    def test_the_latest_wins_and_at_equal_times_the_greatest_id(self):
        older, b, a = (
            impression(T0 - 1, impression_id="z"),
            impression(T0, impression_id="b"),
            impression(T0, impression_id="a"),
        )
        self.assertEqual(credited(T0 + 5, older, b, a), "b")

    def test_another_user_or_campaign_earns_nothing(self):
        self.assertIsNone(credited(T0, impression(T0, impression_id="i", user_id="u2")))
        self.assertIsNone(credited(T0, impression(T0, impression_id="i", campaign_id="c2")))


def conversion(ts, value, clicks=(), impressions=(), rules=None):
    files = {
        "impressions/a.json": b"\n".join(impressions),
        "clicks/a.csv": clicks_csv(*clicks),
        "conversions/a.csv": "timestamp,user_id,campaign_id,conversion_type,conversion_id,value_micros\n"
        f"{ts},u1,c1,buy,v1,{value}\n",
    }
    row, = results({path: data for path, data in files.items() if data}, conversion_rules=rules)[
        "attributed_conversions"
    ]
    return [(it["touch"], it["touch_id"], it["credit_micros"]) for it in row["credits"]]


class Conversions(unittest.TestCase):
    def test_any_click_in_its_window_beats_every_view(self):
        seen = [impression(T0, impression_id="i")]
        day = 24 * 60 * MINUTE
        for click_ts, credited_to in [(T0, "click"), (T0 - 1, "impression")]:
            found = conversion(T0 + 7 * MINUTE, 5, [f"{click_ts},u1,c1,k"], seen, (7 * MINUTE, day, "last"))
            self.assertEqual([touch for touch, _, _ in found], [credited_to])
        self.assertEqual(conversion(T0 + day + 1, 5, [], seen), [])
        self.assertEqual(conversion(T0 + day, 5, [], seen), [("impression", "i", 5)])

    def test_models_share_the_value_in_whole_micros(self):
        clicks = [f"{T0 + n},u1,c1,k{n}" for n in range(3)]
        for model, micros in {
            "last": [100],
            "first": [100],
            "linear": [34, 33, 33],
            "position": [40, 20, 40],
        }.items():
            rules = (MINUTE, MINUTE, model)
            found = [part for _, _, part in conversion(T0 + 5, 100, clicks, [], rules)]
            self.assertEqual(found, micros, model)
        refund = conversion(T0 + 5, -100, clicks, [], (MINUTE, MINUTE, "linear"))
        self.assertEqual([part for _, _, part in refund], [-34, -33, -33])
        two = conversion(T0 + 1, 101, clicks, [], (MINUTE, MINUTE, "position"))
        self.assertEqual([part for _, _, part in two], [51, 50])

    def test_a_value_that_is_no_number_is_quarantined(self):
        path = "conversions/a.csv"
        header = "timestamp,user_id,campaign_id,conversion_type,value_micros\n"
        rows = "".join(f"{T0 + n},u,c,buy,{value}\n" for n, value in enumerate(["", "+7", "-1", "1.5", "x"]))
        self.assertEqual(buckets({path: header + rows}, path), {"valid": 3, "quarantined": 2})


class Buckets(unittest.TestCase):
    def test_late_is_more_than_the_grace_below_the_greatest_before(self):
        at_grace = [impression(T0 + 5 * MINUTE), impression(T0)]
        self.assertEqual(impression_buckets(*at_grace), {"valid": 2})
        beyond = [impression(T0 + 5 * MINUTE + 1), impression(T0)]
        self.assertEqual(impression_buckets(*beyond), {"valid": 1, "late": 1})

    def test_a_quarantined_record_moves_no_time_and_claims_no_id(self):
        bad = impression(T0 + 60 * MINUTE, impression_id="i", website=None)
        self.assertEqual(
            impression_buckets(bad, impression(T0, impression_id="i")),
            {"quarantined": 1, "valid": 1},
        )

    def test_duplicate_comes_before_late_and_a_late_id_stays_taken(self):
        ahead = impression(T0 + 60 * MINUTE, impression_id="x")
        late = impression(T0, impression_id="i")
        again = impression(T0 + 60 * MINUTE, impression_id="i")
        self.assertEqual(
            impression_buckets(ahead, late, late, again), {"valid": 1, "late": 1, "duplicate": 2}
        )

    def test_without_ids_equal_fields_are_one_event(self):
        same_instant = impression("2019-11-24T01:00:00.000+01:00")
        other = impression(T0, website="w2")
        self.assertEqual(
            impression_buckets(impression(T0), same_instant, other), {"valid": 2, "duplicate": 1}
        )

    def test_an_id_is_unique_across_the_files_of_its_feed_in_byte_order(self):
        files = {
            "impressions/b.json": impression(T0, impression_id="i"),
            "impressions/B.json": impression(T0, impression_id="i"),
        }
        self.assertEqual(buckets(files, "impressions/B.json"), {"valid": 1})
        self.assertEqual(buckets(files, "impressions/b.json"), {"duplicate": 1})

    def test_unusable_lines_are_quarantined_one_by_one(self):
        bad = [
            b'{"creative_id":',
            b"7",
            b'{"creative_id":"\xff"}',
            impression("50000-01-01T00:00:00Z"),
            impression("2019-11-24T00:00:00"),
            impression(1_000),
            impression(4_102_444_800),
            impression(T0, user_id=7),
            impression(T0, creative_id="nobody-knows"),
        ]
        self.assertEqual(
            impression_buckets(*bad, b"", impression(T0)), {"quarantined": len(bad), "valid": 1}
        )

    def test_seconds_milliseconds_and_microseconds_are_told_apart(self):
        forms = [T0 // 1000, T0, T0 * 1000 + 999, "2019-11-24T00:00:00.000999Z", str(T0)]
        self.assertEqual(impression_buckets(*map(impression, forms)), {"valid": 1, "duplicate": 4})

    def test_csv_by_header_with_quoted_newlines_and_a_missing_column(self):
        text = f'extra,user_id,campaign_id,timestamp\r\n"a\nb",u,c,{T0}\r\nshort,u\r\n'
        self.assertEqual(buckets({"clicks/a.csv": text}, "clicks/a.csv"), {"valid": 1, "quarantined": 1})
        text = f"user_id,timestamp\nu,{T0}\n"
        self.assertEqual(buckets({"clicks/a.csv": text}, "clicks/a.csv"), {"quarantined": 1})

    def test_a_file_that_is_not_whole_has_an_error_and_no_lines(self):
        whole = gzip.compress(impression(T0) * 1)
        for name, data in {
            "a.json": b"",
            "b.json.gz": whole[:-1],
            "c.json": b"[" + impression(T0),
            "d.json.zst": b"\x28\xb5\x2f\xfd\x20\x05\x29\x00\x00he",
        }.items():
            found = buckets({f"impressions/{name}": data}, f"impressions/{name}")
            self.assertEqual(list(found), ["file_error"], name)

    def test_array_gzip_and_zstandard_read_alike(self):
        raw_block = b"\x28\xb5\x2f\xfd\x20" + bytes([len(impression(T0))])
        raw_block += (1 | len(impression(T0)) << 3).to_bytes(3, "little") + impression(T0)
        for name, data in {
            "a.json": b"[" + impression(T0) + b"]",
            "a.json.gz": gzip.compress(impression(T0)),
            "a.json.zst": raw_block,
        }.items():
            self.assertEqual(
                buckets({f"impressions/{name}": data}, f"impressions/{name}"), {"valid": 1}
            )


class Minutes(unittest.TestCase):
    def test_counts_go_to_the_minute_of_the_event(self):
        found = results(
            {
                "impressions/a.json": impression(T0 + 59_999, cost_micros=7)
                + b"\n"
                + impression(T0 + MINUTE, cost_micros=5),
                "clicks/a.csv": clicks_csv(f"{T0 + MINUTE},u1,c1,k1"),
            }
        )["campaign_minutes"]
        self.assertEqual([tuple(row.values()) for row in found], [
            ("c1", T0, 1, 0, 7),
            ("c1", T0 + MINUTE, 1, 1, 5),
        ])


if __name__ == "__main__":
    unittest.main()
