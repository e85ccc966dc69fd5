//! Typed values to the bytes of one schema and back.

use ::serde::Serialize;
use ::serde::de::DeserializeOwned;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;

use super::{AvroSchema, Resolution};
use crate::serde::SerdeError;

/// Reads and writes data of one schema.
pub(super) struct Codec {
    schema: AvroSchema,
    /// Of the schema to itself: walks a datum before the library reads it, which would allocate what a length claims.
    own: Resolution,
    writer: GenericDatumWriter<'static>,
    reader: GenericDatumReader<'static>,
}

impl Codec {
    pub(super) fn new(schema: AvroSchema) -> Result<Self, SerdeError> {
        let unfit = |error| SerdeError::new(format_args!("not an Avro schema: {error}"));
        // Said here, because a default of the process must not change what is on the wire.
        let writer = GenericDatumWriter::builder(schema.schema()).human_readable(false);
        let reader = GenericDatumReader::builder(schema.schema()).human_readable(false);
        let own = Resolution::new(schema, schema).map_err(SerdeError::new)?;
        Ok(Self {
            schema,
            own,
            writer: writer.build().map_err(unfit)?,
            reader: reader.build().map_err(unfit)?,
        })
    }

    pub(super) fn schema(&self) -> AvroSchema {
        self.schema
    }

    pub(super) fn write<T: Serialize>(
        &self,
        value: &T,
        into: &mut Vec<u8>,
    ) -> Result<(), SerdeError> {
        self.writer
            .write_ser(into, value)
            .map_err(|error| SerdeError::new(format_args!("cannot write as Avro: {error}")))?;
        Ok(())
    }

    /// The value of exactly these bytes.
    pub(super) fn read<T: DeserializeOwned>(&self, datum: &[u8]) -> Result<T, SerdeError> {
        let mut walked = Vec::with_capacity(datum.len());
        self.own.rewrite(datum, &mut walked)?;
        self.read_walked(datum)
    }

    /// The same of bytes that a resolution has made.
    pub(super) fn read_walked<T: DeserializeOwned>(&self, datum: &[u8]) -> Result<T, SerdeError> {
        let mut rest = datum;
        let value = self
            .reader
            .read_deser(&mut rest)
            .map_err(|error| SerdeError::new(format_args!("not the expected Avro: {error}")))?;
        if !rest.is_empty() {
            return Err(left_over(rest.len()));
        }
        Ok(value)
    }
}

/// Bytes behind a datum say that it was written with another schema.
pub(super) fn left_over(bytes: usize) -> SerdeError {
    SerdeError::new(format_args!(
        "not the expected Avro: {bytes} bytes are left behind the datum; was it written with another schema?"
    ))
}
