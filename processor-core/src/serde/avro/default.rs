//! The bytes of a field's default value, which a schema holds as JSON.

use apache_avro::Schema;
use apache_avro::schema::{DecimalSchema, InnerDecimalSchema, UuidSchema};
use serde_json::Value;

use super::rewrite::put_long;

/// Appends the bytes of `default` for a flat `schema`.
pub(super) fn encode(schema: &Schema, default: &Value, into: &mut Vec<u8>) -> Result<(), String> {
    let unfit = || format!("the default {default} does not fit its type");
    match schema {
        Schema::Null if default.is_null() => {}
        Schema::Boolean => into.push(u8::from(default.as_bool().ok_or_else(unfit)?)),
        Schema::Int | Schema::Date | Schema::TimeMillis => {
            let number = default.as_i64().and_then(|n| i32::try_from(n).ok());
            put_long(i64::from(number.ok_or_else(unfit)?), into);
        }
        Schema::Long
        | Schema::TimeMicros
        | Schema::TimestampMillis
        | Schema::TimestampMicros
        | Schema::TimestampNanos
        | Schema::LocalTimestampMillis
        | Schema::LocalTimestampMicros
        | Schema::LocalTimestampNanos => put_long(default.as_i64().ok_or_else(unfit)?, into),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "it is the field's own precision"
        )]
        Schema::Float => {
            let number = float(default).ok_or_else(unfit)? as f32;
            into.extend_from_slice(&number.to_le_bytes());
        }
        Schema::Double => {
            let number = float(default).ok_or_else(unfit)?;
            into.extend_from_slice(&number.to_le_bytes());
        }
        Schema::String | Schema::Uuid(UuidSchema::String) => {
            put_bytes(default.as_str().ok_or_else(unfit)?.as_bytes(), into);
        }
        Schema::Bytes
        | Schema::BigDecimal
        | Schema::Uuid(UuidSchema::Bytes)
        | Schema::Decimal(DecimalSchema {
            inner: InnerDecimalSchema::Bytes,
            ..
        }) => put_bytes(&bytes(default).ok_or_else(unfit)?, into),
        Schema::Fixed(fixed)
        | Schema::Duration(fixed)
        | Schema::Uuid(UuidSchema::Fixed(fixed))
        | Schema::Decimal(DecimalSchema {
            inner: InnerDecimalSchema::Fixed(fixed),
            ..
        }) => {
            let bytes = bytes(default).filter(|bytes| bytes.len() == fixed.size);
            into.extend_from_slice(&bytes.ok_or_else(unfit)?);
        }
        Schema::Enum(schema) => {
            let symbol = default.as_str().ok_or_else(unfit)?;
            let index = schema.symbols.iter().position(|known| known == symbol);
            put_index(index.ok_or_else(unfit)?, into);
        }
        Schema::Array(array) => {
            let items = default.as_array().ok_or_else(unfit)?;
            if !items.is_empty() {
                put_index(items.len(), into);
                for item in items {
                    encode(&array.items, item, into)?;
                }
            }
            put_long(0, into);
        }
        Schema::Map(map) => {
            let entries = default.as_object().ok_or_else(unfit)?;
            if !entries.is_empty() {
                put_index(entries.len(), into);
                for (key, value) in entries {
                    put_bytes(key.as_bytes(), into);
                    encode(&map.types, value, into)?;
                }
            }
            put_long(0, into);
        }
        Schema::Union(union) => {
            let start = into.len();
            let fits = union.variants().iter().enumerate().any(|(index, variant)| {
                into.truncate(start);
                put_index(index, into);
                encode(variant, default, into).is_ok()
            });
            if !fits {
                return Err(unfit());
            }
        }
        Schema::Record(record) => {
            let values = default.as_object().ok_or_else(unfit)?;
            for field in &record.fields {
                let value = values.get(&field.name).or(field.default.as_ref());
                encode(&field.schema, value.ok_or_else(unfit)?, into)?;
            }
        }
        Schema::Null | Schema::Ref { .. } => return Err(unfit()),
    }
    Ok(())
}

fn put_index(index: usize, into: &mut Vec<u8>) {
    put_long(i64::try_from(index).expect("a schema has fewer"), into);
}

fn put_bytes(bytes: &[u8], into: &mut Vec<u8>) {
    put_index(bytes.len(), into);
    into.extend_from_slice(bytes);
}

/// JSON has no word for what is no number.
fn float(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some("NaN") => Some(f64::NAN),
        Some("INF" | "Infinity") => Some(f64::INFINITY),
        Some("-INF" | "-Infinity") => Some(f64::NEG_INFINITY),
        Some(_) => None,
        None => value.as_f64(),
    }
}

/// Bytes stand in a schema as text whose characters 0 to 255 are the bytes.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    let characters = value.as_str()?.chars();
    characters
        .map(|c| u8::try_from(u32::from(c)).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::AvroSchema;
    use super::*;

    fn encoded(schema: &str, default: &Value) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        encode(
            AvroSchema::parse(schema).unwrap().flat(),
            default,
            &mut bytes,
        )?;
        Ok(bytes)
    }

    #[test]
    fn defaults_become_the_bytes_a_writer_would_have_written() {
        use serde_json::json;
        assert_eq!(encoded(r#""int""#, &json!(-1)).unwrap(), [1]);
        assert_eq!(
            encoded(r#""double""#, &json!(1)).unwrap(),
            1_f64.to_le_bytes()
        );
        assert_eq!(
            encoded(r#""bytes""#, &json!("\u{ff}a")).unwrap(),
            [4, 0xff, b'a']
        );
        assert_eq!(encoded(r#"["null","int"]"#, &json!(null)).unwrap(), [0]);
        assert_eq!(encoded(r#"["null","int"]"#, &json!(3)).unwrap(), [2, 6]);
        let array = r#"{"type":"array","items":"int"}"#;
        assert_eq!(encoded(array, &json!([])).unwrap(), [0]);
        assert_eq!(encoded(array, &json!([1])).unwrap(), [2, 2, 0]);
        let map = r#"{"type":"map","values":"int"}"#;
        assert_eq!(encoded(map, &json!({"k": 1})).unwrap(), [2, 2, b'k', 2, 0]);
        let record = r#"{"type":"record","name":"R","fields":[
            {"name":"a","type":"int"},{"name":"b","type":"boolean","default":true}]}"#;
        assert_eq!(encoded(record, &json!({"a": 1})).unwrap(), [2, 1]);
        let symbols = r#"{"type":"enum","name":"E","symbols":["A","B"]}"#;
        assert_eq!(encoded(symbols, &json!("B")).unwrap(), [2]);
    }

    #[test]
    fn a_default_of_another_type_is_an_error() {
        use serde_json::json;
        assert!(encoded(r#""int""#, &json!("1")).is_err());
        assert!(encoded(r#""int""#, &json!(1_i64 << 40)).is_err());
        assert!(encoded(r#"{"type":"fixed","name":"F","size":2}"#, &json!("a")).is_err());
        assert!(encoded(r#"["null","int"]"#, &json!("x")).is_err());
    }
}
