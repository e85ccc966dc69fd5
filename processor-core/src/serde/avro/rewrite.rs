//! Rewriting a datum of one schema into one of another, step by step.
//!
//! Bytes in, bytes out: no tree of values in between. Every length is checked against what is left of the input before
//! anything is allocated for it.

/// What to do with the next piece of the input.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing on either side.
    Nothing,
    /// So many bytes, as they are.
    Raw(usize),
    /// An int or a long, as it is.
    Long,
    /// A length with so many bytes, as they are.
    Bytes,
    /// An int or a long becomes a float.
    LongToFloat,
    /// An int or a long becomes a double.
    LongToDouble,
    /// A float becomes a double.
    FloatToDouble,
    /// The reader's index for each of the writer's symbols.
    Symbols(Vec<Result<i64, String>>),
    /// Blocks of items.
    Array(Box<Step>),
    /// Blocks of keys and values.
    Map(Box<Step>),
    /// A variant of the writer's union decides.
    Switch(Vec<Result<Step, String>>),
    /// The reader has a union where the writer has none: this variant of it.
    Variant(i64, Box<Step>),
    /// Fields.
    Record(RecordSteps),
}

/// A record: the writer's fields in order, then how the reader's are made of them.
#[derive(Debug)]
pub(super) struct RecordSteps {
    written: Vec<Step>,
    read: Vec<Field>,
    /// The reader has the writer's fields, and in their order: nothing has to be kept until the end of the record.
    is_in_order: bool,
}

/// Where a field of the reader comes from.
#[derive(Debug)]
pub(super) enum Field {
    /// The writer's field of this index.
    Written(usize),
    /// These bytes: the default.
    Default(Vec<u8>),
}

impl Step {
    /// Takes the next piece from `input` and appends what becomes of it to `out`.
    pub(super) fn run(&self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Self::Nothing => {}
            Self::Raw(length) => out.extend_from_slice(take(input, *length)?),
            Self::Long => put_long(take_long(input)?, out),
            Self::Bytes => {
                let bytes = take_bytes(input)?;
                put_length(bytes.len(), out);
                out.extend_from_slice(bytes);
            }
            #[expect(clippy::cast_precision_loss, reason = "Avro's promotion is lossy")]
            Self::LongToFloat => {
                let number = take_long(input)? as f32;
                out.extend_from_slice(&number.to_le_bytes());
            }
            #[expect(clippy::cast_precision_loss, reason = "Avro's promotion is lossy")]
            Self::LongToDouble => {
                let number = take_long(input)? as f64;
                out.extend_from_slice(&number.to_le_bytes());
            }
            Self::FloatToDouble => {
                let bytes = take(input, 4)?.try_into().expect("taken as four bytes");
                let number = f64::from(f32::from_le_bytes(bytes));
                out.extend_from_slice(&number.to_le_bytes());
            }
            Self::Symbols(symbols) => {
                let index = take_long(input)?;
                match usize::try_from(index).ok().and_then(|i| symbols.get(i)) {
                    Some(known) => put_long(known.clone()?, out),
                    None => return Err(format!("the enum has no symbol {index}")),
                }
            }
            Self::Array(item) => blocks(input, out, |input, out| item.run(input, out))?,
            Self::Map(value) => blocks(input, out, |input, out| {
                Self::Bytes.run(input, out)?;
                value.run(input, out)
            })?,
            Self::Switch(variants) => {
                let index = take_long(input)?;
                match usize::try_from(index).ok().and_then(|i| variants.get(i)) {
                    Some(Ok(step)) => step.run(input, out)?,
                    Some(Err(reason)) => return Err(reason.clone()),
                    None => return Err(format!("the union has no variant {index}")),
                }
            }
            Self::Variant(index, step) => {
                put_long(*index, out);
                step.run(input, out)?;
            }
            Self::Record(steps) => steps.run(input, out)?,
        }
        Ok(())
    }
}

impl RecordSteps {
    pub(super) fn new(written: Vec<Step>, read: Vec<Field>) -> Self {
        let in_place =
            |(at, field): (usize, &Field)| matches!(field, Field::Written(from) if *from == at);
        Self {
            is_in_order: read.len() == written.len() && read.iter().enumerate().all(in_place),
            written,
            read,
        }
    }

    fn run(&self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        if self.is_in_order {
            return self
                .written
                .iter()
                .try_for_each(|step| step.run(input, out));
        }
        let mut fields = Vec::new();
        let mut ends = Vec::with_capacity(self.written.len());
        for step in &self.written {
            step.run(input, &mut fields)?;
            ends.push(fields.len());
        }
        for field in &self.read {
            match field {
                Field::Default(bytes) => out.extend_from_slice(bytes),
                Field::Written(index) => {
                    let start = if *index == 0 { 0 } else { ends[*index - 1] };
                    out.extend_from_slice(&fields[start..ends[*index]]);
                }
            }
        }
        Ok(())
    }
}

/// The blocks of an array or a map. Every item takes a byte at least, which bounds what a count may claim.
fn blocks(
    input: &mut &[u8],
    out: &mut Vec<u8>,
    mut item: impl FnMut(&mut &[u8], &mut Vec<u8>) -> Result<(), String>,
) -> Result<(), String> {
    loop {
        let count = take_long(input)?;
        if count < 0 {
            take_long(input)?; // The size of the block in bytes, for those who skip it.
        }
        let items = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
        if items > input.len() {
            let left = input.len();
            return Err(format!(
                "{items} items are claimed where {left} bytes are left"
            ));
        }
        put_length(items, out);
        if items == 0 {
            return Ok(());
        }
        for _ in 0..items {
            item(input, out)?;
        }
    }
}

fn take<'a>(input: &mut &'a [u8], length: usize) -> Result<&'a [u8], String> {
    match input.split_at_checked(length) {
        Some((taken, rest)) => {
            *input = rest;
            Ok(taken)
        }
        None => {
            let left = input.len();
            Err(format!(
                "the datum ends early: {length} bytes are missing where {left} are left"
            ))
        }
    }
}

fn take_bytes<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], String> {
    let length = take_long(input)?;
    let length = usize::try_from(length).map_err(|_| format!("{length} is no length"))?;
    take(input, length)
}

fn take_long(input: &mut &[u8]) -> Result<i64, String> {
    let mut zigzag = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take(input, 1)?[0];
        zigzag |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed());
        }
    }
    Err("a number has more than ten bytes".to_owned())
}

pub(super) fn put_long(number: i64, out: &mut Vec<u8>) {
    let mut zigzag = ((number << 1) ^ (number >> 63)).cast_unsigned();
    while zigzag >= 0x80 {
        out.push((zigzag & 0x7f) as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push((zigzag & 0x7f) as u8);
}

fn put_length(length: usize, out: &mut Vec<u8>) {
    put_long(i64::try_from(length).expect("a slice is shorter"), out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_zigzag_varints() {
        for (number, bytes) in [
            (0, &[0][..]),
            (-1, &[1]),
            (1, &[2]),
            (-64, &[0x7f]),
            (64, &[0x80, 1]),
            (
                i64::MAX,
                &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            ),
            (
                i64::MIN,
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            ),
        ] {
            let mut out = Vec::new();
            put_long(number, &mut out);
            assert_eq!(out, bytes);
            assert_eq!(take_long(&mut &out[..]).unwrap(), number);
        }
        assert!(take_long(&mut &[0xff; 11][..]).is_err());
        assert!(take_long(&mut &[0x80][..]).is_err());
    }

    #[test]
    fn a_count_beyond_the_data_is_refused_before_anything_is_made_of_it() {
        let array = Step::Array(Box::new(Step::Long));
        let mut claim = Vec::new();
        put_long(i64::MAX, &mut claim);
        let error = array.run(&mut &claim[..], &mut Vec::new()).unwrap_err();
        assert!(error.contains("are claimed"), "{error}");
        // The most negative count has no positive one.
        claim.clear();
        put_long(i64::MIN, &mut claim);
        put_long(0, &mut claim);
        assert!(array.run(&mut &claim[..], &mut Vec::new()).is_err());
    }

    #[test]
    fn blocks_with_sizes_become_plain_ones() {
        let array = Step::Array(Box::new(Step::Long));
        let mut input = Vec::new();
        for number in [-2, 2, 7, 8, 1, 9, 0] {
            put_long(number, &mut input);
        }
        let (mut out, mut expected) = (Vec::new(), Vec::new());
        array.run(&mut &input[..], &mut out).unwrap();
        for number in [2, 7, 8, 1, 9, 0] {
            put_long(number, &mut expected);
        }
        assert_eq!(out, expected);
    }
}
