//! What holds of any records on the topic of a registry.

use super::contents::Contents;
use super::{Compatibility, SchemaId};
use crate::serde::AvroSchema;

/// Records, each a key and a value with NUL between and behind them. What is taken in keeps its id; what is not says why;
/// and a registration that is planned then is taken in.
pub fn registry(data: &[u8]) {
    let mut contents = Contents::default();
    let mut known: Vec<(SchemaId, AvroSchema)> = Vec::new();
    let mut parts = data.split(|byte| *byte == 0);
    while let Some(key) = parts.next() {
        // A value of one byte stands for none: a record that deletes.
        let value = parts.next().filter(|value| value.len() != 1);
        if let Err(reason) = contents.apply(Some(key), value) {
            assert!(!reason.is_empty());
        }
        let now = (0..=3).filter_map(|id| Some((SchemaId(id), contents.schema(SchemaId(id))?)));
        let now: Vec<_> = now.collect();
        for (id, schema) in &known {
            assert_eq!(
                contents.schema(*id),
                Some(*schema),
                "an id keeps its schema"
            );
        }
        known = now;
    }
    let schema = AvroSchema::parse(r#""string""#).expect("a schema");
    for subject in ["a", "clicks-value"] {
        if contents.find(subject, schema).is_some() {
            continue;
        }
        match contents.plan(subject, schema, Compatibility::None) {
            Ok(plan) => {
                let applied = contents.apply(Some(&plan.key), Some(&plan.value));
                assert_eq!(applied, Ok(()), "what is planned is taken in");
                assert_eq!(contents.find(subject, schema), Some(plan.id));
            }
            Err(error) => assert!(error.to_string().contains(subject), "{error}"),
        }
    }
}
