//! Dimension files: `dims/creatives.csv` and `dims/campaigns.csv`, each optionally packed.

use std::path::Path;

use csv::ReaderBuilder;
use serde::de::DeserializeOwned;

use crate::{Campaign, Creative};

use super::{FileError, Location};

/// Creatives of the landing directory at `root`, in file order; none when there is no such file.
///
/// # Errors
/// When the file cannot be read, or a row does not fit; the error names the line.
pub fn creatives(root: &Path) -> Result<Vec<Creative>, FileError> {
    rows(root, "dims/creatives.csv")
}

/// Campaigns of the landing directory at `root`, in file order; none when there is no such file.
///
/// # Errors
/// As for [`creatives`].
pub fn campaigns(root: &Path) -> Result<Vec<Campaign>, FileError> {
    rows(root, "dims/campaigns.csv")
}

fn rows<T: DeserializeOwned>(root: &Path, name: &str) -> Result<Vec<T>, FileError> {
    let spellings = [name.to_owned(), format!("{name}.gz"), format!("{name}.zst")];
    let Some(path) = spellings.into_iter().find(|path| root.join(path).exists()) else {
        return Ok(Vec::new());
    };
    let location = Location {
        file: root.join(&path),
        path,
    };
    let mut reader = ReaderBuilder::new().from_reader(location.open()?);
    let rows = reader.deserialize();
    rows.map(|row| row.map_err(|error| location.error(format_args!("{error}"))))
        .collect()
}
