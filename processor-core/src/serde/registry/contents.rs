//! What a registry on a topic holds, and what a registration would add to it. No I/O.
//!
//! Records have the layout of Confluent's `_schemas` topic:
//!
//! ```text
//! key    {"keytype":"SCHEMA","subject":"clicks-value","version":1,"magic":1}
//! value  {"subject":"clicks-value","version":1,"id":1,"schema":"{…}","deleted":false}
//! ```
//!
//! A key is written once, so compaction leaves everything. Other key types are passed over.

use std::collections::{BTreeMap, HashMap};

use ::serde::{Deserialize, Serialize};

use super::{Compatibility, RegistryError, SchemaId};
use crate::serde::avro::{AvroSchema, Resolution};

const SCHEMA: &str = "SCHEMA";
/// Ids stay positive for clients that read them as signed.
const LAST_ID: u32 = i32::MAX.cast_unsigned();

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Contents {
    by_id: HashMap<SchemaId, AvroSchema>,
    versions: HashMap<String, BTreeMap<u32, SchemaId>>,
}

/// A registration to write.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Registration {
    pub id: SchemaId,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Key {
    keytype: String,
    #[serde(default)]
    subject: String,
    #[serde(default)]
    version: u32,
    #[serde(default)]
    magic: u32,
}

#[derive(Serialize, Deserialize)]
struct Value {
    subject: String,
    version: u32,
    id: u32,
    schema: String,
    #[serde(default)]
    deleted: bool,
}

impl Contents {
    /// The schema of `id`.
    pub(super) fn schema(&self, id: SchemaId) -> Option<AvroSchema> {
        self.by_id.get(&id).copied()
    }

    /// The id of `schema`, if it is registered under `subject`.
    pub(super) fn find(&self, subject: &str, schema: AvroSchema) -> Option<SchemaId> {
        let ids = self.versions.get(subject)?.values().copied();
        ids.rev().find(|id| self.by_id.get(id) == Some(&schema))
    }

    /// The registration of `schema` under `subject`, where it [is not](Self::find). One schema has one id under all
    /// subjects; a new one gets the next.
    pub(super) fn plan(
        &self,
        subject: &str,
        schema: AvroSchema,
        compatibility: Compatibility,
    ) -> Result<Registration, RegistryError> {
        let refused = |reason: String| RegistryError::Refused {
            subject: subject.to_owned(),
            reason,
        };
        let versions = self.versions.get(subject);
        let latest = versions.and_then(|versions| versions.last_key_value());
        if let (Compatibility::Backward, Some((_, id))) = (compatibility, latest) {
            check_backward(subject, self.by_id[id], schema)?;
        }
        let same = self.by_id.iter().filter(|(_, known)| **known == schema);
        let id = match same.map(|(id, _)| *id).min() {
            Some(id) => id,
            None => SchemaId(self.by_id.keys().map(|id| id.0).max().unwrap_or(0) + 1),
        };
        if id.0 > LAST_ID {
            return Err(refused("there are no more ids".to_owned()));
        }
        let version = match latest {
            None => 1,
            Some((version, _)) => version
                .checked_add(1)
                .ok_or_else(|| refused("there are no more versions".to_owned()))?,
        };
        let key = Key {
            keytype: SCHEMA.to_owned(),
            subject: subject.to_owned(),
            version,
            magic: 1,
        };
        let value = Value {
            subject: subject.to_owned(),
            version,
            id: id.0,
            schema: schema.text().to_owned(),
            deleted: false,
        };
        let json = |error: serde_json::Error| refused(error.to_string());
        Ok(Registration {
            id,
            key: serde_json::to_vec(&key).map_err(json)?,
            value: serde_json::to_vec(&value).map_err(json)?,
        })
    }

    /// Takes a record of the topic in.
    ///
    /// # Errors
    /// Why the record is none of ours.
    pub(super) fn apply(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(), String> {
        let key: Key = serde_json::from_slice(key.unwrap_or_default())
            .map_err(|error| format!("not the key of a schema: {error}"))?;
        if key.keytype != SCHEMA {
            return Ok(());
        }
        let Some(value) = value else {
            // Deleted for good; what was written with it can still be read by those who know it.
            if let Some(versions) = self.versions.get_mut(&key.subject) {
                versions.remove(&key.version);
            }
            return Ok(());
        };
        let value: Value = serde_json::from_slice(value)
            .map_err(|error| format!("not the registration of a schema: {error}"))?;
        let schema = AvroSchema::parse(&value.schema).map_err(|error| error.to_string())?;
        let id = SchemaId(value.id);
        match self.by_id.get(&id) {
            Some(known) if *known != schema => {
                return Err(format!("id {id} has another schema already"));
            }
            Some(_) => {}
            None => {
                self.by_id.insert(id, schema);
            }
        }
        let versions = self.versions.entry(value.subject).or_default();
        if value.deleted {
            versions.remove(&value.version);
        } else {
            versions.insert(value.version, id);
        }
        Ok(())
    }
}

fn check_backward(subject: &str, old: AvroSchema, new: AvroSchema) -> Result<(), RegistryError> {
    let reason = match Resolution::new(old, new) {
        Ok(resolution) => resolution.gaps().first().cloned(),
        Err(reason) => Some(reason),
    };
    reason.map_or(Ok(()), |reason| {
        Err(RegistryError::Incompatible {
            subject: subject.to_owned(),
            reason,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(text: &str) -> AvroSchema {
        AvroSchema::parse(text).unwrap()
    }

    fn record(fields: &str) -> AvroSchema {
        schema(&format!(
            r#"{{"type":"record","name":"R","fields":[{fields}]}}"#
        ))
    }

    fn register(contents: &mut Contents, subject: &str, schema: AvroSchema) -> SchemaId {
        let plan = contents.plan(subject, schema, Compatibility::Backward);
        let plan = plan.unwrap();
        contents.apply(Some(&plan.key), Some(&plan.value)).unwrap();
        assert_eq!(contents.find(subject, schema), Some(plan.id));
        plan.id
    }

    #[test]
    fn ids_count_up_and_one_schema_has_one_id_under_all_subjects() {
        let mut contents = Contents::default();
        let (a, b) = (schema(r#""string""#), schema(r#""long""#));
        assert_eq!(register(&mut contents, "a", a), SchemaId(1));
        assert_eq!(register(&mut contents, "b", b), SchemaId(2));
        assert_eq!(register(&mut contents, "c", a), SchemaId(1));
        assert_eq!(contents.schema(SchemaId(2)), Some(b));
        assert_eq!(contents.find("b", a), None);
    }

    #[test]
    fn a_registration_has_the_layout_that_is_documented() {
        let plan = Contents::default()
            .plan("clicks-value", schema(r#""int""#), Compatibility::Backward)
            .unwrap();
        assert_eq!(
            String::from_utf8(plan.key).unwrap(),
            r#"{"keytype":"SCHEMA","subject":"clicks-value","version":1,"magic":1}"#
        );
        assert_eq!(
            String::from_utf8(plan.value).unwrap(),
            r#"{"subject":"clicks-value","version":1,"id":1,"schema":"\"int\"","deleted":false}"#
        );
    }

    #[test]
    fn a_schema_that_cannot_read_all_of_the_last_one_is_refused_and_says_where() {
        let mut contents = Contents::default();
        register(
            &mut contents,
            "s",
            record(r#"{"name":"a","type":["null","int"]}"#),
        );
        let refusal = |new| match contents.plan("s", new, Compatibility::Backward) {
            Err(RegistryError::Incompatible { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        let fresh = record(r#"{"name":"b","type":"int"}"#);
        assert_eq!(
            refusal(fresh),
            "field b: it was not written and has no default"
        );
        let narrower = record(r#"{"name":"a","type":"int"}"#);
        assert!(refusal(narrower).contains("null was written"));
        assert!(contents.plan("s", fresh, Compatibility::None).is_ok());
        let wider =
            record(r#"{"name":"a","type":["null","long"]},{"name":"b","type":"int","default":0}"#);
        assert!(contents.plan("s", wider, Compatibility::Backward).is_ok());
    }

    #[test]
    fn an_id_never_changes_its_schema() {
        let mut contents = Contents::default();
        register(&mut contents, "a", schema(r#""string""#));
        let foreign = Contents::default()
            .plan("b", schema(r#""long""#), Compatibility::None)
            .unwrap();
        let error = contents.apply(Some(&foreign.key), Some(&foreign.value));
        assert!(error.unwrap_err().contains("id 1 has another schema"));
        assert_eq!(contents.schema(SchemaId(1)), Some(schema(r#""string""#)));
    }

    #[test]
    fn records_of_other_kinds_are_passed_over_and_garbage_is_an_error() {
        let mut contents = Contents::default();
        let config = br#"{"keytype":"CONFIG","magic":0}"#;
        assert_eq!(contents.apply(Some(config), Some(b"{}")), Ok(()));
        assert!(contents.apply(Some(b"x"), None).is_err());
        assert!(contents.apply(None, None).is_err());
    }

    #[test]
    fn a_deleted_version_keeps_its_schema_readable() {
        let mut contents = Contents::default();
        let id = register(&mut contents, "a", schema(r#""string""#));
        let key = br#"{"keytype":"SCHEMA","subject":"a","version":1,"magic":1}"#;
        contents.apply(Some(key), None).unwrap();
        assert_eq!(contents.find("a", schema(r#""string""#)), None);
        assert!(contents.schema(id).is_some());
    }
}
