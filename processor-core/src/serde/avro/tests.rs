//! Avro data from the outside in: round trips, evolution, and what is no data.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use ::serde::de::DeserializeOwned;
use ::serde::{Deserialize, Serialize};
use proptest::prelude::*;

use super::*;
use crate::serde::registry::{Lookup, RegistryError, SchemaId, SchemaRegistry};

/// A registry in memory that answers what it is told to.
#[derive(Default)]
struct Fake {
    known: Mutex<Vec<AvroSchema>>,
    answers: Mutex<HashMap<SchemaId, Lookup>>,
}

impl Fake {
    fn answering(id: SchemaId, answer: Lookup) -> Arc<Self> {
        let fake = Self::default();
        fake.answers.lock().unwrap().insert(id, answer);
        Arc::new(fake)
    }
}

impl SchemaRegistry for Fake {
    fn register(&self, _: &str, schema: AvroSchema) -> Result<SchemaId, RegistryError> {
        let mut known = self.known.lock().unwrap();
        known.push(schema);
        Ok(SchemaId(u32::try_from(known.len()).unwrap()))
    }

    fn schema(&self, id: SchemaId) -> Lookup {
        if let Some(answer) = self.answers.lock().unwrap().get(&id) {
            return answer.clone();
        }
        let known = self.known.lock().unwrap();
        let index = usize::try_from(id.0).unwrap().checked_sub(1);
        match index.and_then(|index| known.get(index)) {
            Some(schema) => Lookup::Known(*schema),
            None => Lookup::Unknown("never registered".to_owned()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Event {
    id: String,
    at: i64,
    count: i32,
    score: f64,
    ratio: f32,
    paid: bool,
    kind: Kind,
    note: Option<String>,
    tags: Vec<String>,
    sizes: BTreeMap<String, i64>,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Kind {
    Click,
    View,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Place {
    country: String,
    city: Option<String>,
}

const EVENT: &str = r#"{"type":"record","name":"Event","namespace":"ads","fields":[
    {"name":"id","type":"string"},
    {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"count","type":"int"},
    {"name":"score","type":"double"},
    {"name":"ratio","type":"float"},
    {"name":"paid","type":"boolean"},
    {"name":"kind","type":{"type":"enum","name":"Kind","symbols":["Click","View"]}},
    {"name":"note","type":["null","string"]},
    {"name":"tags","type":{"type":"array","items":"string"}},
    {"name":"sizes","type":{"type":"map","values":"long"}},
    {"name":"place","type":{"type":"record","name":"Place","fields":[
        {"name":"country","type":"string"},
        {"name":"city","type":["null","string"]}]}}]}"#;

fn event() -> Event {
    Event {
        id: "e-1".to_owned(),
        at: 1_704_067_200_123,
        count: -7,
        score: 0.25,
        ratio: -1.5,
        paid: true,
        kind: Kind::View,
        note: Some("n".to_owned()),
        tags: vec!["a".to_owned(), "b".to_owned()],
        sizes: BTreeMap::from([("w".to_owned(), 640)]),
        place: Place {
            country: "DE".to_owned(),
            city: None,
        },
    }
}

fn bytes_of<T>(serde: &dyn Serde<T>, value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    serde.serialize(value, &mut bytes).unwrap();
    bytes
}

/// What `R` sees of `value`, which was written with another schema.
fn evolved<W, R>(value: &W, writer: &str, reader: &str) -> Result<R, SerdeError>
where
    W: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    let registry = Arc::new(Fake::default());
    let written = registered_avro::<W>(Arc::<Fake>::clone(&registry), "s", writer).unwrap();
    let bytes = bytes_of(&written, value);
    let read = registered_avro::<R>(registry, "s", reader).unwrap();
    // Twice: the second time from what was worked out the first time.
    let _ = read.deserialize(&bytes);
    read.deserialize(&bytes)
}

fn refusal<W, R>(value: &W, writer: &str, reader: &str) -> String
where
    W: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned + std::fmt::Debug,
{
    evolved::<W, R>(value, writer, reader)
        .unwrap_err()
        .to_string()
}

#[test]
fn a_length_beyond_the_data_is_refused_before_anything_is_allocated_for_it() {
    let serde = crate::serde::avro::<String>(r#""string""#).unwrap();
    // 500,000,000 bytes are claimed, which the library would allocate.
    let error = serde
        .deserialize(&[0x80, 0x94, 0xeb, 0xdc, 0x03])
        .unwrap_err();
    assert!(
        error.to_string().contains("are missing where 0 are left"),
        "{error}"
    );
}

#[test]
fn plain_and_registered_data_come_back_as_they_were() {
    let plain = avro::<Event>(EVENT).unwrap();
    let bytes = bytes_of(&plain, &event());
    assert_eq!(plain.deserialize(&bytes).unwrap(), event());

    let registry = Arc::new(Fake::default());
    let registered = registered_avro::<Event>(registry, "events-value", EVENT).unwrap();
    let framed = bytes_of(&registered, &event());
    assert_eq!(framed[..5], [0, 0, 0, 0, 1]);
    assert_eq!(framed[5..], bytes);
    assert_eq!(registered.deserialize(&framed).unwrap(), event());
}

#[test]
fn a_schema_is_registered_once() {
    let registry = Arc::new(Fake::default());
    let serde = registered_avro::<Event>(Arc::<Fake>::clone(&registry), "s", EVENT).unwrap();
    assert_eq!(serde.register().unwrap(), SchemaId(1));
    bytes_of(&serde, &event());
    bytes_of(&serde, &event());
    assert_eq!(registry.known.lock().unwrap().len(), 1);
}

/// The same record in its second version: everything that may change has.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename = "Event")]
struct Event2 {
    source: String,
    occurred: i64,
    count: i64,
    ratio: f64,
    kind: Kind2,
    note: Option<String>,
    id: Option<String>,
    place: Place2,
    weights: Vec<f64>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename = "Kind")]
enum Kind2 {
    Other,
    Click,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename = "Place")]
struct Place2 {
    city: Option<String>,
    zip: Option<i64>,
    country: String,
}

const EVENT_2: &str = r#"{"type":"record","name":"Event","namespace":"ads","fields":[
    {"name":"source","type":"string","default":"web"},
    {"name":"occurred","aliases":["at"],"type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"count","type":"long"},
    {"name":"ratio","type":"double"},
    {"name":"kind","type":{"type":"enum","name":"Kind","symbols":["Other","Click"],"default":"Other"}},
    {"name":"note","type":["null","string"]},
    {"name":"id","type":["null","string"]},
    {"name":"place","type":{"type":"record","name":"Place","fields":[
        {"name":"city","type":["null","string"]},
        {"name":"zip","type":["null","long"],"default":null},
        {"name":"country","type":"string"}]}},
    {"name":"weights","type":{"type":"array","items":"double"},"default":[0.5]}]}"#;

#[test]
fn old_data_is_read_with_a_new_schema() {
    let read: Event2 = evolved(&event(), EVENT, EVENT_2).unwrap();
    assert_eq!(
        read,
        Event2 {
            source: "web".to_owned(),
            occurred: 1_704_067_200_123,
            count: -7,
            ratio: -1.5,
            kind: Kind2::Other,
            note: Some("n".to_owned()),
            id: Some("e-1".to_owned()),
            place: Place2 {
                city: None,
                zip: None,
                country: "DE".to_owned()
            },
            weights: vec![0.5],
        }
    );
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct One<T> {
    x: T,
}

fn one(field: &str) -> String {
    format!(r#"{{"type":"record","name":"One","fields":[{{"name":"x",{field}}}]}}"#)
}

#[test]
fn data_that_does_not_fit_names_the_field_the_id_and_both_types() {
    let error = refusal::<_, One<i64>>(
        &One { x: "a".to_owned() },
        &one(r#""type":"string""#),
        &one(r#""type":"long""#),
    );
    for part in ["id 1", "field x", "string was written", "long"] {
        assert!(error.contains(part), "{error}");
    }
    let narrowed = refusal::<_, One<f32>>(
        &One { x: 1.0_f64 },
        &one(r#""type":"double""#),
        &one(r#""type":"float""#),
    );
    assert!(narrowed.contains("double was written"), "{narrowed}");
}

#[test]
fn a_time_is_not_read_in_another_unit() {
    let millis = one(r#""type":{"type":"long","logicalType":"timestamp-millis"}"#);
    let micros = one(r#""type":{"type":"long","logicalType":"timestamp-micros"}"#);
    let error = refusal::<_, One<i64>>(&One { x: 1_i64 }, &millis, &micros);
    assert!(error.contains("timestamp-millis was written"), "{error}");
    // A plain number has no unit.
    let plain = one(r#""type":"int""#);
    assert_eq!(
        evolved::<_, One<i64>>(&One { x: 5_i32 }, &plain, &millis)
            .unwrap()
            .x,
        5
    );
}

#[test]
fn a_union_is_decided_by_each_datum() {
    let optional = one(r#""type":["null","string"]"#);
    let required = one(r#""type":"string""#);
    let some = One {
        x: Some("a".to_owned()),
    };
    assert_eq!(
        evolved::<_, One<String>>(&some, &optional, &required)
            .unwrap()
            .x,
        "a"
    );
    let none = One { x: None::<String> };
    let error = refusal::<_, One<String>>(&none, &optional, &required);
    assert!(error.contains("field x: null was written"), "{error}");
}

#[test]
fn a_type_with_an_alias_may_have_another_name() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Single {
        x: i32,
    }
    let renamed = |alias: &str| {
        format!(
            r#"{{"type":"record","name":"Single"{alias},"fields":[{{"name":"x","type":"int"}}]}}"#
        )
    };
    let written = one(r#""type":"int""#);
    let read = evolved::<_, Single>(
        &One { x: 5_i32 },
        &written,
        &renamed(r#","aliases":["One"]"#),
    );
    assert_eq!(read.unwrap(), Single { x: 5 });
    let error = refusal::<_, Single>(&One { x: 5_i32 }, &written, &renamed(""));
    assert!(error.contains("record One was written"), "{error}");
}

#[test]
fn a_truncated_datum_is_an_error_at_every_length() {
    let registry = Arc::new(Fake::default());
    let written = registered_avro::<Event>(Arc::<Fake>::clone(&registry), "s", EVENT).unwrap();
    let evolved = registered_avro::<Event2>(registry, "s", EVENT_2).unwrap();
    let plain = avro::<Event>(EVENT).unwrap();
    let bytes = bytes_of(&written, &event());
    assert!(evolved.deserialize(&bytes).is_ok());
    for length in 0..bytes.len() {
        assert!(
            written.deserialize(&bytes[..length]).is_err(),
            "{length} bytes"
        );
        assert!(
            evolved.deserialize(&bytes[..length]).is_err(),
            "{length} bytes"
        );
        if length >= 5 {
            assert!(
                plain.deserialize(&bytes[5..length]).is_err(),
                "{length} bytes"
            );
        }
    }
}

/// Reads `datum` of [`one`] optional `field` with the schema it was written with, and with a wider one.
fn read_optional<T: Serialize + DeserializeOwned>(field: &str, datum: &[u8]) -> [bool; 2] {
    let field = format!(r#""type":["null","{field}"]"#);
    let wider = format!(r#"{field}}},{{"name":"y","type":"int","default":0"#);
    let fake = Arc::new(Fake::default());
    let id = fake.register("s", AvroSchema::parse(&one(&field)).unwrap());
    let mut bytes = Vec::new();
    frame::begin(id.unwrap(), &mut bytes);
    bytes.extend_from_slice(datum);
    [one(&field), one(&wider)].map(|schema| {
        let registry = Arc::<Fake>::clone(&fake);
        let serde = registered_avro::<One<Option<T>>>(registry, "s", &schema).unwrap();
        serde.deserialize(&bytes).is_ok()
    })
}

#[test]
fn a_truncated_text_boolean_or_union_is_never_null() {
    // These three are what apache-avro takes for null at the end of the input when it reads untyped values.
    assert_eq!(read_optional::<String>("string", b""), [false; 2]);
    assert_eq!(read_optional::<String>("string", b"\x02\x06ab"), [false; 2]);
    assert_eq!(read_optional::<String>("string", b"\x02\x06abc"), [true; 2]);
    assert_eq!(read_optional::<bool>("boolean", b"\x02"), [false; 2]);
    assert_eq!(read_optional::<bool>("boolean", b"\x02\x01"), [true; 2]);
}

#[test]
fn fields_that_the_reader_leaves_out_are_passed_over() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename = "Event")]
    struct Part {
        paid: bool,
        at: i64,
    }
    const PART: &str = r#"{"type":"record","name":"Event","fields":[
        {"name":"paid","type":"boolean"},
        {"name":"at","type":"long"}]}"#;
    let part: Part = evolved(&event(), EVENT, PART).unwrap();
    let at = event().at;
    assert_eq!(part, Part { paid: true, at });
}

#[test]
fn bytes_behind_a_datum_are_an_error() {
    let plain = avro::<Event>(EVENT).unwrap();
    let mut bytes = bytes_of(&plain, &event());
    bytes.push(0);
    let error = plain.deserialize(&bytes).unwrap_err().to_string();
    assert!(error.contains("1 bytes are left"), "{error}");
}

#[test]
fn data_without_the_magic_byte_is_an_error_that_says_so() {
    let serde = registered_avro::<Event>(Arc::new(Fake::default()), "s", EVENT).unwrap();
    let error = serde.deserialize(b"{\"id\":\"e-1\"}").unwrap_err();
    assert!(!error.is_not_ready());
    assert!(error.to_string().contains("0x7b"), "{error}");
}

#[test]
fn an_unknown_id_is_an_error_with_the_id_the_reason_and_what_to_do() {
    let serde = registered_avro::<Event>(Arc::new(Fake::default()), "s", EVENT).unwrap();
    let error = serde.deserialize(&[0, 0, 0, 0, 9, 1, 2]).unwrap_err();
    assert!(!error.is_not_ready());
    let error = error.to_string();
    for part in ["id 9", "never registered", "check"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_pending_schema_makes_the_record_wait_and_then_it_is_read() {
    let id = SchemaId(4);
    let registry = Fake::answering(id, Lookup::Pending);
    let serde = registered_avro::<Event>(Arc::<Fake>::clone(&registry), "s", EVENT).unwrap();
    let mut bytes = Vec::new();
    frame::begin(id, &mut bytes);
    bytes.extend(bytes_of(&avro::<Event>(EVENT).unwrap(), &event()));
    let error = serde.deserialize(&bytes).unwrap_err();
    assert!(error.is_not_ready());
    assert!(error.to_string().contains("id 4"), "{error}");

    let schema = AvroSchema::parse(EVENT).unwrap();
    registry
        .answers
        .lock()
        .unwrap()
        .insert(id, Lookup::Known(schema));
    assert_eq!(serde.deserialize(&bytes).unwrap(), event());
}

/// The library takes it for the size of a fixed type, and panics, where it makes a canonical form.
#[test]
fn an_attribute_that_is_called_size_may_be_anything() {
    let field = |size: &str| {
        format!(
            r#"{{"type":"record","name":"One","size":{size},"fields":[{{"name":"x","type":"long"}}]}}"#
        )
    };
    for size in [r#""large""#, "[]", "1.5", r#"{"x":null}"#] {
        let fake = Arc::<Fake>::default();
        let id = fake.register("s", AvroSchema::parse(&field(size)).unwrap());
        let serde =
            registered_avro::<One<i64>>(Arc::<Fake>::clone(&fake), "s", &one(r#""type":"long""#));
        let mut bytes = Vec::new();
        frame::begin(id.unwrap(), &mut bytes);
        bytes.extend(bytes_of(
            &avro::<One<i64>>(&one(r#""type":"long""#)).unwrap(),
            &One { x: 7 },
        ));
        assert_eq!(
            serde.unwrap().deserialize(&bytes).unwrap(),
            One { x: 7 },
            "{size}"
        );
    }
}

#[test]
fn a_value_that_its_schema_does_not_allow_is_not_written() {
    let serde = avro::<One<i64>>(&one(r#""type":"string""#)).unwrap();
    let error = serde.serialize(&One { x: 1 }, &mut Vec::new()).unwrap_err();
    assert!(
        error.to_string().contains("cannot write as Avro"),
        "{error}"
    );
}

/// Schemas of all shapes to throw bytes at.
const SHAPES: [&str; 9] = [
    EVENT,
    EVENT_2,
    r#""string""#,
    r#"["null","boolean","bytes"]"#,
    r#"{"type":"array","items":{"type":"array","items":"string"}}"#,
    r#"{"type":"map","values":{"type":"map","values":"null"}}"#,
    r#"{"type":"fixed","name":"F","size":7}"#,
    r#"{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}"#,
    r#"{"type":"string","logicalType":"uuid"}"#,
];

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), framed in any::<bool>()) {
        let registry = Arc::new(Fake::default());
        let mut input = Vec::new();
        for shape in SHAPES {
            let id = registry.register("s", AvroSchema::parse(shape).unwrap()).unwrap();
            input.clear();
            if framed {
                frame::begin(id, &mut input);
            }
            input.extend_from_slice(&bytes);
            let _ = avro::<serde_json::Value>(shape).unwrap().deserialize(&bytes);
            let _ = avro::<Event>(shape).unwrap().deserialize(&bytes);
            let read = registered_avro::<Event2>(Arc::<Fake>::clone(&registry), "s", EVENT_2);
            let _ = read.unwrap().deserialize(&input);
        }
    }

    #[test]
    fn damaged_data_is_refused_or_reads_the_same_with_either_schema(at in 0_usize..64, with in any::<u8>(), cut in 0_usize..64) {
        let registry = Arc::new(Fake::default());
        let written = registered_avro::<Event>(Arc::<Fake>::clone(&registry), "s", EVENT).unwrap();
        let evolved = registered_avro::<Event2>(registry, "s", EVENT_2).unwrap();
        let mut bytes = bytes_of(&written, &event());
        let length = bytes.len();
        bytes[5 + at % (length - 5)] = with;
        bytes.truncate(length - cut % 3);
        let (same, new) = (written.deserialize(&bytes), evolved.deserialize(&bytes));
        if let Ok(old) = same {
            let new = new.unwrap();
            prop_assert_eq!((new.occurred, new.count), (old.at, i64::from(old.count)));
            prop_assert_eq!((new.id, new.note), (Some(old.id), old.note));
            prop_assert_eq!((new.place.country, new.place.city), (old.place.country, old.place.city));
        }
    }
}
