//! A processor gets its stores opened, in the types that their handles have.

use processor_core::Record;
use processor_core::dsl::{Consumed, StreamsBuilder};
use processor_core::error::Result;
use processor_core::processor::{KeyValue, Processor, ProcessorContext};
use processor_core::serde::{int64, utf8};

struct Latest(KeyValue<String, String>);

impl Processor<String, i64> for Latest {
    type KOut = String;
    type VOut = i64;

    fn process(&mut self, record: Record<String, i64>, _: &mut ProcessorContext<'_, '_, String, i64>) -> Result {
        self.0.put(&record.key, &record.value.to_string(), record.timestamp)
    }
}

fn main() {
    let builder = StreamsBuilder::new("wrong");
    let clicks = builder.stream("clicks", Consumed::new(utf8(), int64()));
    let numbers = builder.key_value_store("numbers", utf8(), int64());
    clicks.process("latest", numbers, Latest);
    let table = builder.table("users", "users", Consumed::new(utf8(), utf8()));
    clicks.process("table", table, |_| unreachable!());
}
