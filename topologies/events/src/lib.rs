//! AdvertiseX event types, landing formats and the synthetic generator.
