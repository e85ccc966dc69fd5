//! AdvertiseX: the ad-tech data platform, one binary.

fn main() {}
