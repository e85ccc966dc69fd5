//! A processor says which records it takes, and `process_values` keeps their keys.

use processor_core::Record;
use processor_core::dsl::{Consumed, StreamsBuilder};
use processor_core::error::Result;
use processor_core::processor::{Processor, ProcessorContext};
use processor_core::serde::{int64, utf8};

struct Turn;

impl Processor<String, i64> for Turn {
    type KOut = i64;
    type VOut = String;

    fn process(&mut self, record: Record<String, i64>, context: &mut ProcessorContext<'_, '_, i64, String>) -> Result {
        context.forward(Record::new(record.value, record.key, record.timestamp))
    }
}

fn main() {
    let builder = StreamsBuilder::new("wrong");
    let texts = builder.stream("texts", Consumed::new(utf8(), utf8()));
    texts.process("turned", (), |()| Turn);
    let numbers = builder.stream("numbers", Consumed::new(utf8(), int64()));
    numbers.process_values("turned", (), |()| Turn);
}
