//! How data of a writer's schema is read as data of a reader's: Avro's schema resolution, decided once for a pair.
//!
//! | written             | read                                    |
//! |---------------------|-----------------------------------------|
//! | field               | field of that name, or with that alias  |
//! | no such field       | its default; without one, incompatible  |
//! | field nobody reads  | skipped                                 |
//! | `int`               | `long`, `float`, `double`               |
//! | `long`              | `float`, `double`                       |
//! | `float`             | `double`                                |
//! | `bytes`, `string`   | each other                              |
//! | enum symbol         | that symbol, or the reader's default    |
//! | a type              | a union with a variant that can read it |
//! | union               | decided by the variant of each datum    |
//!
//! Named types must have one unqualified name, or an alias. Where both sides give a number a meaning, it must be one:
//! `timestamp-millis` is not read as `timestamp-micros`, which would silently mean another time.

use apache_avro::Schema;
use apache_avro::schema::{
    Alias, DecimalSchema, EnumSchema, FixedSchema, InnerDecimalSchema, Name, RecordSchema,
    UnionSchema, UuidSchema,
};
use serde_json::Value;

use super::AvroSchema;
use super::codec::left_over;
use super::default::encode;
use super::rewrite::{Field, RecordSteps, Step};
use crate::serde::SerdeError;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Resolution {
    step: Step,
    gaps: Vec<String>,
    same_bytes: bool,
}

impl Resolution {
    /// How `reader` reads what `writer` wrote.
    ///
    /// # Errors
    /// Where and why it cannot read any of it.
    pub(crate) fn new(writer: AvroSchema, reader: AvroSchema) -> Result<Self, String> {
        let mut plan = Plan::default();
        let step = plan.step(writer.flat(), reader.flat())?;
        let same_bytes = writer == reader
            || canonical(&writer).is_some_and(|form| Some(form) == canonical(&reader));
        Ok(Self {
            step,
            gaps: plan.gaps,
            same_bytes,
        })
    }

    /// Data that the writer's schema allows and the reader cannot read: symbols and variants that it does not know.
    pub(crate) fn gaps(&self) -> &[String] {
        &self.gaps
    }

    /// Whether data is the same in both schemas, byte by byte.
    pub(super) fn same_bytes(&self) -> bool {
        self.same_bytes
    }

    /// Appends what the writer's `datum` is in the reader's schema.
    pub(super) fn rewrite(&self, datum: &[u8], into: &mut Vec<u8>) -> Result<(), SerdeError> {
        let mut rest = datum;
        self.step.run(&mut rest, into).map_err(|reason| {
            SerdeError::new(format_args!("not the Avro of its schema: {reason}"))
        })?;
        if rest.is_empty() {
            Ok(())
        } else {
            Err(left_over(rest.len()))
        }
    }
}

/// What a schema is on the wire.
#[derive(Clone, Copy)]
enum Shape<'a> {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(&'a FixedSchema),
    Enum(&'a EnumSchema),
    Array(&'a Schema),
    Map(&'a Schema),
    Union(&'a UnionSchema),
    Record(&'a RecordSchema),
}

fn shape(schema: &Schema) -> Shape<'_> {
    match schema {
        Schema::Null => Shape::Null,
        Schema::Boolean => Shape::Boolean,
        Schema::Int | Schema::Date | Schema::TimeMillis => Shape::Int,
        Schema::Long
        | Schema::TimeMicros
        | Schema::TimestampMillis
        | Schema::TimestampMicros
        | Schema::TimestampNanos
        | Schema::LocalTimestampMillis
        | Schema::LocalTimestampMicros
        | Schema::LocalTimestampNanos => Shape::Long,
        Schema::Float => Shape::Float,
        Schema::Double => Shape::Double,
        Schema::Bytes
        | Schema::BigDecimal
        | Schema::Uuid(UuidSchema::Bytes)
        | Schema::Decimal(DecimalSchema {
            inner: InnerDecimalSchema::Bytes,
            ..
        }) => Shape::Bytes,
        Schema::String | Schema::Uuid(UuidSchema::String) => Shape::String,
        Schema::Fixed(fixed)
        | Schema::Duration(fixed)
        | Schema::Uuid(UuidSchema::Fixed(fixed))
        | Schema::Decimal(DecimalSchema {
            inner: InnerDecimalSchema::Fixed(fixed),
            ..
        }) => Shape::Fixed(fixed),
        Schema::Enum(schema) => Shape::Enum(schema),
        Schema::Array(array) => Shape::Array(&array.items),
        Schema::Map(map) => Shape::Map(&map.types),
        Schema::Union(union) => Shape::Union(union),
        Schema::Record(record) => Shape::Record(record),
        Schema::Ref { .. } => unreachable!("a flat schema has no references"),
    }
}

/// The canonical form of the text. `None` where something else is called as an attribute of a number: the library takes it for
/// one there, and panics.
fn canonical(schema: &AvroSchema) -> Option<String> {
    fn is_plain(json: &Value) -> bool {
        match json {
            Value::Object(fields) => fields.iter().all(|(name, value)| {
                let is_number = || match value {
                    Value::String(text) => text.parse::<i64>().is_ok(),
                    other => other.is_i64(),
                };
                let of_numbers = ["size", "precision", "scale"].contains(&name.as_str());
                is_plain(value) && (!of_numbers || is_number())
            }),
            Value::Array(values) => values.iter().all(is_plain),
            _ => true,
        }
    }
    let json = serde_json::to_value(schema.schema()).ok()?;
    is_plain(&json).then(|| schema.schema().canonical_form())
}

/// The meaning of a number or of bytes, where a schema gives one.
fn meaning(schema: &Schema) -> Option<String> {
    let name = match schema {
        Schema::Date => "date",
        Schema::TimeMillis => "time-millis",
        Schema::TimeMicros => "time-micros",
        Schema::TimestampMillis => "timestamp-millis",
        Schema::TimestampMicros => "timestamp-micros",
        Schema::TimestampNanos => "timestamp-nanos",
        Schema::LocalTimestampMillis => "local-timestamp-millis",
        Schema::LocalTimestampMicros => "local-timestamp-micros",
        Schema::LocalTimestampNanos => "local-timestamp-nanos",
        Schema::Decimal(decimal) => {
            return Some(format!("decimal({}, {})", decimal.precision, decimal.scale));
        }
        Schema::BigDecimal => "big-decimal",
        Schema::Uuid(_) => "uuid",
        Schema::Duration(_) => "duration",
        _ => return None,
    };
    Some(name.to_owned())
}

/// A schema in an error message.
fn describe(schema: &Schema) -> String {
    if let Some(meaning) = meaning(schema) {
        return meaning;
    }
    let kind = match shape(schema) {
        Shape::Null => "null",
        Shape::Boolean => "boolean",
        Shape::Int => "int",
        Shape::Long => "long",
        Shape::Float => "float",
        Shape::Double => "double",
        Shape::Bytes => "bytes",
        Shape::String => "string",
        Shape::Fixed(fixed) => return format!("fixed({}) {}", fixed.size, fixed.name.name()),
        Shape::Enum(schema) => return format!("enum {}", schema.name.name()),
        Shape::Array(_) => "an array",
        Shape::Map(_) => "a map",
        Shape::Union(_) => "a union",
        Shape::Record(record) => return format!("record {}", record.name.name()),
    };
    kind.to_owned()
}

/// A resolution in the making.
#[derive(Default)]
struct Plan {
    /// Fields down to the type at hand.
    path: Vec<String>,
    gaps: Vec<String>,
}

impl Plan {
    fn step(&mut self, writer: &Schema, reader: &Schema) -> Result<Step, String> {
        if let (Some(written), Some(read)) = (meaning(writer), meaning(reader))
            && written != read
        {
            return Err(self.mismatch(writer, reader));
        }
        Ok(match (shape(writer), shape(reader)) {
            (Shape::Union(writer), _) => self.switch(writer, reader)?,
            (_, Shape::Union(union)) => self.variant(writer, union)?,
            (Shape::Null, Shape::Null) => Step::Nothing,
            (Shape::Boolean, Shape::Boolean) => Step::Raw(1),
            (Shape::Int, Shape::Int | Shape::Long) | (Shape::Long, Shape::Long) => Step::Long,
            (Shape::Int | Shape::Long, Shape::Float) => Step::LongToFloat,
            (Shape::Int | Shape::Long, Shape::Double) => Step::LongToDouble,
            (Shape::Float, Shape::Float) => Step::Raw(4),
            (Shape::Float, Shape::Double) => Step::FloatToDouble,
            (Shape::Double, Shape::Double) => Step::Raw(8),
            (Shape::Bytes | Shape::String, Shape::Bytes | Shape::String) => Step::Bytes,
            (Shape::Fixed(w), Shape::Fixed(r))
                if w.size == r.size && one_name(&w.name, &r.name, r.aliases.as_ref()) =>
            {
                Step::Raw(w.size)
            }
            (Shape::Enum(w), Shape::Enum(r)) if one_name(&w.name, &r.name, r.aliases.as_ref()) => {
                self.symbols(w, r)
            }
            (Shape::Array(w), Shape::Array(r)) => Step::Array(Box::new(self.step(w, r)?)),
            (Shape::Map(w), Shape::Map(r)) => Step::Map(Box::new(self.step(w, r)?)),
            (Shape::Record(w), Shape::Record(r))
                if one_name(&w.name, &r.name, r.aliases.as_ref()) =>
            {
                Step::Record(self.record(w, r)?)
            }
            _ => return Err(self.mismatch(writer, reader)),
        })
    }

    fn record(
        &mut self,
        writer: &RecordSchema,
        reader: &RecordSchema,
    ) -> Result<RecordSteps, String> {
        let mut written: Vec<Option<Step>> = writer.fields.iter().map(|_| None).collect();
        let mut read = Vec::with_capacity(reader.fields.len());
        for field in &reader.fields {
            self.path.push(field.name.clone());
            // Its own name first: an alias must not take a field that is still there.
            let index = std::iter::once(&field.name)
                .chain(&field.aliases)
                .find_map(|name| writer.fields.iter().position(|w| w.name == *name));
            let source = match (index, &field.default) {
                (Some(index), _) => {
                    let step = self.step(&writer.fields[index].schema, &field.schema)?;
                    if written[index].is_some() {
                        let name = &writer.fields[index].name;
                        return Err(self.here(format_args!("two fields read what {name} wrote")));
                    }
                    written[index] = Some(step);
                    Field::Written(index)
                }
                (None, Some(default)) => {
                    let mut bytes = Vec::new();
                    encode(&field.schema, default, &mut bytes)
                        .map_err(|reason| self.here(reason))?;
                    Field::Default(bytes)
                }
                (None, None) => {
                    return Err(self.here("it was not written and has no default"));
                }
            };
            read.push(source);
            self.path.pop();
        }
        let skipping = writer.fields.iter().zip(written);
        let written = skipping
            .map(|(field, step)| match step {
                Some(step) => Ok(step),
                None => Plan::default().step(&field.schema, &field.schema),
            })
            .collect::<Result<_, _>>()?;
        Ok(RecordSteps::new(written, read))
    }

    fn symbols(&mut self, writer: &EnumSchema, reader: &EnumSchema) -> Step {
        let index_of = |symbol: &String| reader.symbols.iter().position(|known| known == symbol);
        let default = reader.default.as_ref().and_then(index_of);
        let mut symbols = Vec::with_capacity(writer.symbols.len());
        for symbol in &writer.symbols {
            symbols.push(match index_of(symbol).or(default) {
                Some(index) => Ok(i64::try_from(index).expect("a schema has fewer")),
                None => Err(self.gap(format_args!("symbol {symbol} is not known"))),
            });
        }
        Step::Symbols(symbols)
    }

    fn switch(&mut self, writer: &UnionSchema, reader: &Schema) -> Result<Step, String> {
        let variants: Vec<_> = writer
            .variants()
            .iter()
            .map(|variant| self.attempt(variant, reader))
            .collect();
        if let Some(Err(reason)) = variants.first()
            && variants.iter().all(Result::is_err)
        {
            return Err(reason.clone());
        }
        let unread = variants.iter().filter_map(|variant| variant.as_ref().err());
        self.gaps.extend(unread.cloned());
        Ok(Step::Switch(variants))
    }

    /// The variant of the reader's union for a type that is no union: the same type before one it can become.
    fn variant(&mut self, writer: &Schema, union: &UnionSchema) -> Result<Step, String> {
        let same = |reader: &Schema| {
            std::mem::discriminant(&shape(writer)) == std::mem::discriminant(&shape(reader))
        };
        let (first, then): (Vec<_>, Vec<_>) = union
            .variants()
            .iter()
            .enumerate()
            .partition(|(_, reader)| same(reader));
        for (index, reader) in first.into_iter().chain(then) {
            if let Ok(step) = self.attempt(writer, reader) {
                let index = i64::try_from(index).expect("a schema has fewer");
                return Ok(Step::Variant(index, Box::new(step)));
            }
        }
        let written = describe(writer);
        Err(self.here(format_args!("no variant of the union reads {written}")))
    }

    /// A step that leaves no traces when there is none.
    fn attempt(&mut self, writer: &Schema, reader: &Schema) -> Result<Step, String> {
        let (depth, gaps) = (self.path.len(), self.gaps.len());
        let step = self.step(writer, reader);
        if step.is_err() {
            self.path.truncate(depth);
            self.gaps.truncate(gaps);
        }
        step
    }

    fn gap(&mut self, what: impl std::fmt::Display) -> String {
        let gap = self.here(what);
        self.gaps.push(gap.clone());
        gap
    }

    fn mismatch(&self, writer: &Schema, reader: &Schema) -> String {
        let (written, read) = (describe(writer), describe(reader));
        self.here(format_args!(
            "{written} was written, which cannot be read as {read}"
        ))
    }

    fn here(&self, what: impl std::fmt::Display) -> String {
        if self.path.is_empty() {
            what.to_string()
        } else {
            format!("field {}: {what}", self.path.join("."))
        }
    }
}

fn one_name(writer: &Name, reader: &Name, aliases: Option<&Vec<Alias>>) -> bool {
    let mut aliases = aliases.into_iter().flatten();
    writer.name() == reader.name() || aliases.any(|alias| alias.name() == writer.name())
}
