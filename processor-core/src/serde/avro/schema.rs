//! An Avro schema: parsed, checked, and kept for the life of the process.
//!
//! Programs have a handful of schemas and need them to the end, so each text is parsed once and never freed. That makes
//! a schema a pointer, which costs nothing to share between serdes, tasks and threads.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use apache_avro::Schema;
use apache_avro::schema::{
    DecimalSchema, FixedSchema, InnerDecimalSchema, Name, NamespaceRef, UnionSchema, UuidSchema,
};

use crate::serde::SerdeError;

/// Most types in one schema, references counted as often as they are used.
const MAX_TYPES: usize = 100_000;

/// An Avro schema. Equal to another with the same content, whatever the spacing and the order of attributes.
#[derive(Clone, Copy)]
pub struct AvroSchema(&'static Parsed);

struct Parsed {
    json: serde_json::Value,
    text: String,
    schema: Schema,
    flat: Schema,
}

impl AvroSchema {
    /// The schema of a JSON text, as in an `.avsc` file.
    ///
    /// # Errors
    /// When it is no Avro schema, refers to a type it does not define, or could make a few bytes of data cost unbounded
    /// time or memory: a type that contains itself, or an array of items that take no bytes.
    pub fn parse(text: &str) -> Result<Self, SerdeError> {
        static PARSED: Mutex<Option<HashMap<String, &'static Parsed>>> = Mutex::new(None);
        let mut parsed = PARSED.lock().unwrap_or_else(PoisonError::into_inner);
        let parsed = parsed.get_or_insert_default();
        if let Some(schema) = parsed.get(text) {
            return Ok(Self(schema));
        }
        let schema: &'static Parsed = Box::leak(Box::new(Parsed::new(text)?));
        parsed.insert(text.to_owned(), schema);
        Ok(Self(schema))
    }

    /// Its JSON text, on one line.
    #[must_use]
    pub fn text(self) -> &'static str {
        &self.0.text
    }

    /// Full name of the type, where it has one.
    #[must_use]
    pub fn name(self) -> Option<String> {
        self.0.schema.name().map(|name| name.fullname(None))
    }

    pub(super) fn schema(self) -> &'static Schema {
        &self.0.schema
    }

    /// The schema with the definition in place of every reference.
    pub(super) fn flat(self) -> &'static Schema {
        &self.0.flat
    }
}

impl Parsed {
    fn new(text: &str) -> Result<Self, SerdeError> {
        let unfit = |reason: String| SerdeError::new(format_args!("not an Avro schema: {reason}"));
        let json: serde_json::Value =
            serde_json::from_str(text).map_err(|error| unfit(error.to_string()))?;
        let schema = Schema::parse(&json).map_err(|error| unfit(error.to_string()))?;
        let flat = Flattening::default()
            .flatten(&schema, None)
            .map_err(|reason| {
                SerdeError::new(format_args!(
                    "an Avro schema that is not supported: {reason}"
                ))
            })?;
        let text = json.to_string();
        Ok(Self {
            json,
            text,
            schema,
            flat,
        })
    }
}

impl PartialEq for AvroSchema {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0) || self.0.json == other.0.json
    }
}

impl Eq for AvroSchema {}

impl fmt::Debug for AvroSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AvroSchema({})", self.0.text)
    }
}

impl fmt::Display for AvroSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

/// Replaces references by what they refer to.
#[derive(Default)]
struct Flattening {
    known: HashMap<Name, Schema>,
    /// The records around the type at hand.
    open: Vec<Name>,
    types: usize,
}

impl Flattening {
    fn flatten(&mut self, schema: &Schema, namespace: NamespaceRef) -> Result<Schema, String> {
        self.types += 1;
        if self.types > MAX_TYPES {
            return Err(format!("it has more than {MAX_TYPES} types"));
        }
        Ok(match schema {
            Schema::Record(record) => {
                let name = record.name.fully_qualified_name(namespace).into_owned();
                self.open.push(name.clone());
                let mut flat = record.clone();
                for field in &mut flat.fields {
                    field.schema = self.flatten(&field.schema, name.namespace())?;
                }
                self.open.pop();
                self.define(&name, Schema::Record(flat))
            }
            Schema::Array(array) => {
                let mut flat = array.clone();
                *flat.items = self.flatten(&array.items, namespace)?;
                if takes_no_bytes(&flat.items) {
                    return Err("an array has items that take no bytes".to_owned());
                }
                Schema::Array(flat)
            }
            Schema::Map(map) => {
                let mut flat = map.clone();
                *flat.types = self.flatten(&map.types, namespace)?;
                Schema::Map(flat)
            }
            Schema::Union(union) => {
                let variants = union.variants().iter();
                let flat: Result<_, _> = variants.map(|v| self.flatten(v, namespace)).collect();
                Schema::Union(UnionSchema::new(flat?).map_err(|error| error.to_string())?)
            }
            Schema::Ref { name } => {
                let name = name.fully_qualified_name(namespace);
                if self.open.contains(&name) {
                    return Err(format!("type {} contains itself", name.fullname(None)));
                }
                match self.known.get(&*name) {
                    Some(flat) => {
                        // What is copied counts, or a few lines could grow beyond all memory.
                        self.types += count(flat);
                        flat.clone()
                    }
                    None => return Err(format!("type {} is not defined", name.fullname(None))),
                }
            }
            named => match named.name() {
                Some(name) => {
                    let name = name.fully_qualified_name(namespace).into_owned();
                    self.define(&name, named.clone())
                }
                None => named.clone(),
            },
        })
    }

    fn define(&mut self, name: &Name, schema: Schema) -> Schema {
        self.known.insert(name.clone(), schema.clone());
        schema
    }
}

/// Types in a flat schema.
fn count(schema: &Schema) -> usize {
    1 + match schema {
        Schema::Record(record) => record.fields.iter().map(|f| count(&f.schema)).sum(),
        Schema::Array(array) => count(&array.items),
        Schema::Map(map) => count(&map.types),
        Schema::Union(union) => union.variants().iter().map(count).sum(),
        _ => 0,
    }
}

fn takes_no_bytes(schema: &Schema) -> bool {
    match schema {
        Schema::Null => true,
        Schema::Record(record) => record.fields.iter().all(|f| takes_no_bytes(&f.schema)),
        Schema::Fixed(FixedSchema { size, .. })
        | Schema::Uuid(UuidSchema::Fixed(FixedSchema { size, .. }))
        | Schema::Decimal(DecimalSchema {
            inner: InnerDecimalSchema::Fixed(FixedSchema { size, .. }),
            ..
        }) => *size == 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        AvroSchema::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn schemas_are_equal_by_content() {
        let one = AvroSchema::parse(r#"{"type":"array","items":"int"}"#).unwrap();
        let other = AvroSchema::parse(r#"{ "items": "int", "type": "array" }"#).unwrap();
        let another = AvroSchema::parse(r#"{"type":"array","items":"long"}"#).unwrap();
        assert_eq!(one, other);
        assert_ne!(one, another);
    }

    #[test]
    fn what_is_no_schema_is_refused_with_the_reason() {
        assert!(refusal("{").contains("not an Avro schema"));
        assert!(refusal(r#"{"type":"recrod"}"#).contains("not an Avro schema"));
    }

    #[test]
    fn a_type_that_contains_itself_is_refused() {
        let list = r#"{"type":"record","name":"a.List","fields":[
            {"name":"next","type":["null","List"]}]}"#;
        assert!(
            refusal(list).contains("a.List contains itself"),
            "{}",
            refusal(list)
        );
    }

    #[test]
    fn an_array_of_nothings_is_refused() {
        let nulls = r#"{"type":"array","items":"null"}"#;
        assert!(refusal(nulls).contains("take no bytes"));
        let empty = r#"{"type":"array","items":{"type":"record","name":"E","fields":[]}}"#;
        assert!(refusal(empty).contains("take no bytes"));
    }

    #[test]
    fn a_type_used_twice_is_no_recursion() {
        let text = r#"{"type":"record","name":"n.Pair","fields":[
            {"name":"a","type":{"type":"record","name":"One","fields":[{"name":"x","type":"int"}]}},
            {"name":"b","type":"One"}]}"#;
        let flat = AvroSchema::parse(text).unwrap().flat();
        let Schema::Record(pair) = flat else { panic!() };
        assert!(matches!(pair.fields[1].schema, Schema::Record(_)));
    }

    #[test]
    fn references_do_not_multiply_without_bound() {
        let mut fields = r#"{"name":"f0","type":{"type":"record","name":"T0","fields":[{"name":"x","type":"int"}]}}"#.to_owned();
        for i in 1..40 {
            let t = i - 1;
            fields += &format!(
                r#",{{"name":"f{i}","type":{{"type":"record","name":"T{i}","fields":[
                    {{"name":"a","type":"T{t}"}},{{"name":"b","type":"T{t}"}}]}}}}"#
            );
        }
        let text = format!(r#"{{"type":"record","name":"Bomb","fields":[{fields}]}}"#);
        assert!(refusal(&text).contains("more than 100000 types"));
    }
}
