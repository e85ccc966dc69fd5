//! One CSV row as a value: fields in the order of the struct, no header.

use std::marker::PhantomData;

use ::serde::Serialize;
use ::serde::de::DeserializeOwned;

use super::{Serde, SerdeError};

/// A CSV row of any flat `serde` struct.
pub struct Csv<T>(PhantomData<fn() -> T>);

/// A CSV row of any flat `serde` struct; quoted where needed, without a line end.
#[must_use]
pub fn csv<T>() -> Csv<T> {
    Csv(PhantomData)
}

impl<T: Serialize + DeserializeOwned> Serde<T> for Csv<T> {
    fn format(&self) -> Option<String> {
        Some("csv".to_owned())
    }

    fn serialize(&self, value: &T, into: &mut Vec<u8>) -> Result<(), SerdeError> {
        let mut writer = ::csv::WriterBuilder::new()
            .has_headers(false)
            .from_writer(&mut *into);
        let written = writer
            .serialize(value)
            .and_then(|()| writer.flush().map_err(Into::into));
        drop(writer);
        written.map_err(|error| SerdeError::new(format_args!("cannot write as CSV: {error}")))?;
        if into.last() == Some(&b'\n') {
            into.pop();
        }
        Ok(())
    }

    fn deserialize(&self, bytes: &[u8]) -> Result<T, SerdeError> {
        let mut reader = ::csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(bytes);
        match reader.deserialize().next() {
            Some(row) => {
                row.map_err(|error| SerdeError::new(format_args!("not the expected CSV: {error}")))
            }
            None => Err(SerdeError::new("an empty CSV row")),
        }
    }
}
