//! AdvertiseX: the ad-tech data platform, one binary.
