//! What holds of any bytes that are said to be Avro, and of any schemas.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::LazyLock;

use ::serde::{Deserialize, Serialize};

use super::{Avro, AvroSchema, RegisteredAvro, Resolution, avro as plain, registered_avro};
use crate::fuzzing::survives;
use crate::serde::SerdeError;
use crate::serde::registry::{Lookup, RegistryError, SchemaId, SchemaRegistry};

/// Every shape that there is, but for those of numbers with a meaning.
const SCHEMA: &str = r#"{"type":"record","name":"Event","fields":[
    {"name":"id","type":"string"},
    {"name":"kind","type":{"type":"enum","name":"Kind","symbols":["A","B"],"default":"A"}},
    {"name":"small","type":"int"},
    {"name":"number","type":["null","long"],"default":null},
    {"name":"ratio","type":"double"},
    {"name":"yes","type":"boolean"},
    {"name":"raw","type":"bytes"},
    {"name":"tags","type":{"type":"array","items":"string"}},
    {"name":"counts","type":{"type":"map","values":"long"}},
    {"name":"part","type":["null",{"type":"record","name":"Part","fields":[
        {"name":"name","type":"string"},{"name":"ratio","type":"float"}]}],"default":null}]}"#;

/// Versions of it that writers may have: fields gone, added, in another order, narrower, renamed types and all.
const WRITERS: [&str; 3] = [
    r#"{"type":"record","name":"Event","fields":[
        {"name":"tags","type":{"type":"array","items":["string","bytes"]}},
        {"name":"gone","type":{"type":"map","values":{"type":"array","items":"int"}}},
        {"name":"id","type":"bytes"},
        {"name":"kind","type":{"type":"enum","name":"Kind","symbols":["C","B","A"]}},
        {"name":"small","type":"int"},{"name":"ratio","type":"int"},{"name":"yes","type":"boolean"},
        {"name":"raw","type":"string"},{"name":"counts","type":{"type":"map","values":"int"}}]}"#,
    r#"{"type":"record","name":"Event","fields":[
        {"name":"id","type":["null","string"]},
        {"name":"kind","type":{"type":"enum","name":"Kind","symbols":["A"]}},
        {"name":"small","type":["int","string"]},{"name":"number","type":"int"},
        {"name":"ratio","type":["float","long","null"]},{"name":"yes","type":"boolean"},
        {"name":"raw","type":"bytes"},{"name":"tags","type":{"type":"array","items":"bytes"}},
        {"name":"counts","type":{"type":"map","values":["null","long"]}},
        {"name":"part","type":{"type":"record","name":"Part","fields":[
            {"name":"ratio","type":"float"},{"name":"name","type":"bytes"},
            {"name":"skipped","type":{"type":"fixed","name":"F","size":3}}]}}]}"#,
    r#"{"type":"record","name":"Event","fields":[{"name":"id","type":"string"}]}"#,
];

#[derive(Debug, Serialize, Deserialize)]
enum Kind {
    A,
    B,
}

#[derive(Debug, Serialize, Deserialize)]
struct Part {
    name: String,
    ratio: f32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Event {
    id: String,
    kind: Kind,
    small: i32,
    number: Option<i64>,
    ratio: f64,
    yes: bool,
    #[serde(with = "apache_avro::serde::bytes")]
    raw: Vec<u8>,
    tags: Vec<String>,
    counts: BTreeMap<String, i64>,
    part: Option<Part>,
}

/// Schema 0 is the reader's, then come [`WRITERS`]; the others are pending or unknown.
struct Versions;

impl SchemaRegistry for Versions {
    fn register(&self, _: &str, _: AvroSchema) -> Result<SchemaId, RegistryError> {
        Ok(SchemaId(0))
    }

    fn schema(&self, id: SchemaId) -> Lookup {
        let known = std::iter::once(SCHEMA).chain(WRITERS);
        match usize::try_from(id.0)
            .ok()
            .and_then(|n| known.into_iter().nth(n))
        {
            Some(text) => Lookup::Known(AvroSchema::parse(text).expect("a schema")),
            None if id.0 == 4 => Lookup::Pending,
            None => Lookup::Unknown("nobody registered it".to_owned()),
        }
    }
}

/// Plain data, registered data of several writers, and schemas that are text; the first byte chooses.
pub fn avro(data: &[u8]) {
    static PLAIN: LazyLock<Avro<Event>> = LazyLock::new(|| plain(SCHEMA).expect("a schema"));
    static REGISTERED: LazyLock<RegisteredAvro<Event>> = LazyLock::new(|| {
        registered_avro(Arc::new(Versions), "events-value", SCHEMA).expect("a schema")
    });
    let Some((part, bytes)) = data.split_first() else {
        return;
    };
    match part % 6 {
        0 => survives(&*PLAIN, bytes),
        1 => survives(&*REGISTERED, bytes),
        // So that the fuzzer need not find out what a frame is.
        part @ 2..5 => {
            let mut framed = vec![0, 0, 0, 0, part - 1];
            framed.extend_from_slice(bytes);
            survives(&*REGISTERED, &framed);
        }
        _ => schemas(bytes),
    }
}

/// Two schemas and a datum, with NUL between them. What one schema writes it reads; whether and how another one reads it is
/// decided for all data at once, and what is rewritten is data of the reader.
fn schemas(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    let mut text = || std::str::from_utf8(parts.next()?).ok();
    let (Some(writer), Some(reader)) = (text(), text()) else {
        return;
    };
    let (writer, reader) = match (AvroSchema::parse(writer), AvroSchema::parse(reader)) {
        (Ok(writer), Ok(reader)) => (writer, reader),
        (Err(error), _) | (_, Err(error)) => return assert!(!error.to_string().is_empty()),
    };
    for schema in [writer, reader] {
        let again = AvroSchema::parse(schema.text()).expect("a schema reads its own text");
        assert_eq!(again, schema);
        let own = Resolution::new(schema, schema).expect("a schema reads what it writes");
        assert!(own.gaps().is_empty(), "{:?}", own.gaps());
    }
    let datum = parts.next().unwrap_or_default();
    let own = Resolution::new(writer, writer).expect("it was asked above");
    let canonical = rewritten(&own, datum);
    let Ok(resolution) = Resolution::new(writer, reader) else {
        return;
    };
    let Ok(read) = rewritten(&resolution, datum) else {
        return;
    };
    assert!(canonical.is_ok(), "what another reads its writer reads");
    let own = Resolution::new(reader, reader).expect("it was asked above");
    let again = rewritten(&own, &read);
    assert_eq!(again.expect("it is data of the reader"), read);
}

fn rewritten(resolution: &Resolution, datum: &[u8]) -> Result<Vec<u8>, SerdeError> {
    let mut into = Vec::new();
    resolution.rewrite(datum, &mut into)?;
    Ok(into)
}
