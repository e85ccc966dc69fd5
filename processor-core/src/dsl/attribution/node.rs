//! The operator in a task: takes the records of all inputs, asks the rules, and does what they say.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

use state::JoinStore;
use xxhash_rust::xxh3::Xxh3;

use crate::dsl::late::LateBranch;
use crate::dsl::lateness::{InputTimes, TimedInputs};
use crate::dsl::stream_join::node::{dropped, sequence_of};
use crate::error::{Fault, Result};
use crate::log::Timestamp;
use crate::processor::{Context, Fanout, Process, Wake};
use crate::record::{Data, Record};
use crate::serde::{SerdeError, SharedSerde};

use super::credit::apportion;
use super::open::{OpenConversion, OpenConversions, Place};
use super::path::Path;
use super::result::{Attributed, AttributionStatus, Credit};
use super::rules::{AttributionRules, Revisions, TouchWindow, final_before};
use super::touch::{Conversion, Touch, TouchRow, campaign_of, meeting_key};

/// Makes a conversion of a record.
pub(super) type Describe<K, C> = Arc<dyn Fn(&K, &C) -> Conversion + Send + Sync>;
/// Makes a touch of a record.
pub(super) type AsTouch<K, V, T> = Arc<dyn Fn(&K, V) -> Touch<T> + Send + Sync>;

/// A touch stream with what is kept of it.
pub(super) struct TouchStream {
    pub name: String,
    pub window: TouchWindow,
    pub store: Rc<RefCell<JoinStore>>,
}

/// All inputs of an attribution in a task.
pub(super) struct AttributionNode<K, C, T> {
    pub name: String,
    pub rules: AttributionRules,
    pub describe: Describe<K, C>,
    pub key: SharedSerde<K>,
    pub conversion: SharedSerde<C>,
    pub touch: SharedSerde<T>,
    /// Of the conversions, then of each touch stream.
    pub times: InputTimes,
    pub streams: Vec<TouchStream>,
    /// Numbers of the streams of each precedence, the highest first.
    pub precedences: Vec<(u8, Vec<usize>)>,
    pub open: OpenConversions,
    pub results: Fanout<String, Attributed<C, T>>,
    pub late: LateBranch<K, C>,
    pub key_buffer: Vec<u8>,
    pub value_buffer: Vec<u8>,
}

/// Where conversions come in.
pub(super) struct ConversionInput<K, C, T>(pub Rc<RefCell<AttributionNode<K, C, T>>>);

/// Where the touches of a stream come in.
pub(super) struct TouchInput<K, C, T, V> {
    pub node: Rc<RefCell<AttributionNode<K, C, T>>>,
    /// Number of the stream.
    pub stream: usize,
    pub as_touch: AsTouch<K, V, T>,
    /// Tells null values; a stream whose type was changed has none.
    pub value: Option<SharedSerde<V>>,
    pub late: LateBranch<K, V>,
}

impl<K: Data, C: Data, T: Data> Process<K, C> for ConversionInput<K, C, T> {
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, C>) -> Result {
        let mut node = self.0.borrow_mut();
        let node = &mut *node;
        if node.key.is_null(&record.key) {
            return dropped("null key");
        }
        if node.conversion.is_null(&record.value) {
            return dropped("null value");
        }
        let moved = node.times.observe(CONVERSIONS, record.timestamp, context);
        if record.timestamp < node.times.in_time_from(CONVERSIONS) {
            let now = node.times.time_of(CONVERSIONS);
            let widest = node.streams.iter().map(|s| s.window.before_ms).max();
            let from = record.timestamp.saturating_sub(widest.unwrap_or(0));
            let window = (from, record.timestamp);
            return node
                .late
                .take(context, record, |_, value| value, window, now);
        }
        node.take_conversion(&record, context)?;
        if moved {
            node.move_on(context)?;
        }
        Ok(())
    }
}

impl<K: Data, C: Data, T: Data, V: Data> Process<K, V> for TouchInput<K, C, T, V> {
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result {
        let mut node = self.node.borrow_mut();
        let node = &mut *node;
        if node.key.is_null(&record.key) {
            return dropped("null key");
        }
        if self
            .value
            .as_ref()
            .is_some_and(|v| v.is_null(&record.value))
        {
            return dropped("null value");
        }
        let input = touches_of(self.stream);
        let moved = node.times.observe(input, record.timestamp, context);
        if record.timestamp < node.times.in_time_from(input) {
            let now = node.times.time_of(input);
            let stream = &node.streams[self.stream];
            let window = stream.window.conversions_of(record.timestamp);
            return self
                .late
                .take(context, record, |_, value| value, window, now);
        }
        let touch = (self.as_touch)(&record.key, record.value);
        node.take_touch(self.stream, &record.key, &touch, record.timestamp, context)?;
        if moved {
            node.move_on(context)?;
        }
        Ok(())
    }
}

impl<K: Data, C: Data, T: Data> AttributionNode<K, C, T> {
    /// Emits at once what is final already, and keeps the rest.
    fn take_conversion(&mut self, record: &Record<K, C>, context: &mut Context<'_>) -> Result {
        let Conversion {
            id,
            campaign,
            value_micros,
        } = (self.describe)(&record.key, &record.value);
        let timestamp = record.timestamp;
        // One that comes again takes the place of the one that is open.
        let before = self.open.find(timestamp, &id)?;
        if let Some((place, _)) = &before {
            self.open.remove(place)?;
        }
        self.encode_key(&record.key, &campaign)?;
        let mut conversion = OpenConversion {
            value_micros,
            revision: before.map_or(0, |(_, before)| before.revision),
            told: 0,
            meeting_key: self.key_buffer.clone(),
            conversion: Vec::new(),
        };
        self.conversion
            .serialize(&record.value, &mut conversion.conversion)
            .map_err(|error| self.fault("conversion", error))?;
        let mut place = Place {
            precedence: 0,
            timestamp,
            id,
        };
        if !self.looks_at_once(timestamp) {
            return self.open.add(&place, &conversion, sequence_of(context));
        }
        let (precedence, path) = self.path(&conversion.meeting_key, timestamp)?;
        place.precedence = precedence;
        if timestamp < self.final_before(precedence) {
            return self.emit_final(&place, conversion, &path, context);
        }
        if self.rules.revisions == Revisions::Every {
            self.tell(&place, &mut conversion, &path, context)?;
        }
        self.open.add(&place, &conversion, sequence_of(context))
    }

    /// Whether the path of a conversion that has just come matters before it is final.
    fn looks_at_once(&self, timestamp: Timestamp) -> bool {
        self.follows_touches() || timestamp < self.final_before(0)
    }

    /// Whether a touch may change what is known of an open conversion: its result, or which streams it waits for.
    fn follows_touches(&self) -> bool {
        follows_touches(self.rules.revisions, self.precedences.len())
    }

    fn take_touch(
        &mut self,
        stream: usize,
        key: &K,
        touch: &Touch<T>,
        timestamp: Timestamp,
        context: &mut Context<'_>,
    ) -> Result {
        self.encode_key(key, &touch.campaign)?;
        self.value_buffer.clear();
        let campaigns = self.rules.campaigns;
        TouchRow::encode_head(
            &touch.id,
            &touch.campaign,
            campaigns,
            &mut self.value_buffer,
        );
        self.touch
            .serialize(&touch.value, &mut self.value_buffer)
            .map_err(|error| fault(&self.name, "touch", error))?;
        self.streams[stream].store.borrow_mut().append(
            &self.key_buffer,
            timestamp,
            sequence_of(context),
            &self.value_buffer,
        )?;
        if self.follows_touches() {
            self.revise(stream, timestamp, context)?;
        }
        Ok(())
    }

    /// Looks again at the open conversions that a touch of `stream`, with the key in the buffer, is eligible for.
    fn revise(&mut self, stream: usize, timestamp: Timestamp, context: &mut Context<'_>) -> Result {
        let window = self.streams[stream].window;
        let (from, to) = window.conversions_of(timestamp);
        for (timestamp, id) in self.open.meeting(&self.key_buffer, from, to)? {
            let Some((mut place, mut conversion)) = self.open.find(timestamp, &id)? else {
                continue;
            };
            let outranked = window.precedence < place.precedence;
            if outranked || conversion.meeting_key != self.key_buffer {
                continue;
            }
            let (precedence, path) = self.path(&conversion.meeting_key, timestamp)?;
            if precedence != place.precedence {
                self.open.remove(&place)?;
                place.precedence = precedence;
            }
            if self.rules.revisions == Revisions::Every {
                self.tell(&place, &mut conversion, &path, context)?;
            }
            self.open.put(&place, &conversion)?;
        }
        Ok(())
    }

    /// What no open conversion and none that is still to come in time can need.
    pub(super) fn expire(&mut self) {
        let needed_from = (self.times.in_time_from(CONVERSIONS)).min(self.open.earliest());
        for stream in &self.streams {
            let (from, _) = stream.window.touches_of(needed_from);
            stream.store.borrow_mut().expire_before(from);
        }
        self.open.expire_before(needed_from);
    }

    fn emit_final(
        &mut self,
        place: &Place,
        mut conversion: OpenConversion,
        path: &Path,
        context: &mut Context<'_>,
    ) -> Result {
        conversion.revision += 1;
        let credits = self.credits(path, &conversion)?;
        let (status, truncated) = (AttributionStatus::Final, path.truncated());
        self.emit(place, &conversion, status, credits, truncated, context)
    }

    /// Emits what is known of an open conversion, unless it was told before.
    fn tell(
        &mut self,
        place: &Place,
        conversion: &mut OpenConversion,
        path: &Path,
        context: &mut Context<'_>,
    ) -> Result {
        let (credits, truncated) = (self.credits(path, conversion)?, path.truncated());
        let told = digest(&credits, truncated);
        if conversion.told == told {
            return Ok(());
        }
        let status = match conversion.revision {
            0 => AttributionStatus::Provisional,
            _ => AttributionStatus::Revised,
        };
        conversion.told = told;
        conversion.revision += 1;
        self.emit(place, conversion, status, credits, truncated, context)
    }

    fn emit(
        &mut self,
        place: &Place,
        conversion: &OpenConversion,
        status: AttributionStatus,
        credits: Vec<Credit<T>>,
        truncated: usize,
        context: &mut Context<'_>,
    ) -> Result {
        let attributed = Attributed {
            status,
            revision: conversion.revision,
            conversion: self
                .conversion
                .deserialize(&conversion.conversion)
                .map_err(|error| self.fault("conversion", error))?,
            credits,
            truncated,
        };
        let record = Record::new(place.id.clone(), attributed, place.timestamp);
        self.results.forward(context, record)
    }

    /// The eligible touches of the highest precedence that has any, and which that is.
    fn path(&self, meeting_key: &[u8], conversion: Timestamp) -> Result<(u8, Path)> {
        let mut path = Path::new(self.rules.model, self.rules.max_path);
        for (precedence, streams) in &self.precedences {
            for &number in streams {
                let stream = &self.streams[number];
                let (from, to) = stream.window.touches_of(conversion);
                let mut whole = true;
                stream.store.borrow().fetch(
                    meeting_key,
                    from,
                    to,
                    &mut |timestamp, _, bytes| {
                        match TouchRow::decode(bytes) {
                            Some(row) => path.offer(number, timestamp, &row),
                            None => whole = false,
                        }
                        ControlFlow::Continue(())
                    },
                )?;
                if !whole {
                    let error = SerdeError::new("the bytes are not what an attribution keeps");
                    return Err(self.fault("touch", error));
                }
            }
            if !path.is_empty() {
                return Ok((*precedence, path));
            }
        }
        Ok((0, path))
    }

    /// What each touch of the path gets.
    fn credits(&self, path: &Path, conversion: &OpenConversion) -> Result<Vec<Credit<T>>> {
        let campaign = campaign_of(&conversion.meeting_key, self.rules.campaigns);
        let times: Vec<Timestamp> = path.touches().iter().map(|t| t.timestamp).collect();
        let weights = self.rules.model.weights(&times);
        let micros = apportion(conversion.value_micros, &weights);
        let shares = apportion(1_000_000, &weights);
        let touches = path.touches().iter();
        touches
            .zip(micros.into_iter().zip(shares))
            .map(|(touch, (credit_micros, share_millionths))| {
                Ok(Credit {
                    stream: self.streams[touch.stream].name.clone(),
                    touch_id: touch.id.clone(),
                    timestamp: touch.timestamp,
                    campaign: campaign.map_or_else(|| touch.campaign.clone(), str::to_owned),
                    value: self
                        .touch
                        .deserialize(&touch.value)
                        .map_err(|error| self.fault("touch", error))?,
                    credit_micros,
                    share_millionths,
                })
            })
            .collect()
    }

    fn final_before(&self, precedence: u8) -> Timestamp {
        final_before(precedence, open_from(&self.times, &self.streams))
    }

    /// Puts the key under which touches and conversions meet into the buffer.
    fn encode_key(&mut self, key: &K, campaign: &str) -> Result {
        self.key_buffer.clear();
        self.key
            .serialize(key, &mut self.key_buffer)
            .map_err(|error| fault(&self.name, "key", error))?;
        meeting_key(&mut self.key_buffer, campaign, self.rules.campaigns);
        Ok(())
    }

    fn fault(&self, part: &str, error: SerdeError) -> Fault {
        fault(&self.name, part, error)
    }
}

impl<K: Data, C: Data, T: Data> TimedInputs for AttributionNode<K, C, T> {
    fn times(&mut self) -> &mut InputTimes {
        &mut self.times
    }

    fn move_on(&mut self, context: &mut Context<'_>) -> Result {
        let (times, streams) = (&self.times, &self.streams);
        let end = |precedence| final_before(precedence, open_from(times, streams));
        for (place, conversion) in self.open.take_final(end)? {
            let (_, path) = self.path(&conversion.meeting_key, place.timestamp)?;
            self.emit_final(&place, conversion, &path, context)?;
        }
        self.expire();
        Ok(())
    }
}

impl<K: Data, C: Data, T: Data> Wake for AttributionNode<K, C, T> {
    fn end_of_input(&mut self, context: &mut Context<'_>) -> Result {
        if self.rules.revisions != Revisions::FinalAndEndOfInput {
            return Ok(());
        }
        for (place, mut conversion) in self.open.all()? {
            let (_, path) = self.path(&conversion.meeting_key, place.timestamp)?;
            self.tell(&place, &mut conversion, &path, context)?;
            self.open.put(&place, &conversion)?;
        }
        Ok(())
    }
}

/// Whether a touch may change what is known of an open conversion; if not, nothing has to find the conversions of a touch.
pub(super) fn follows_touches(revisions: Revisions, precedences: usize) -> bool {
    revisions == Revisions::Every || precedences > 1
}

/// Number of the conversions among the inputs.
pub(super) const CONVERSIONS: usize = 0;

/// Number of a touch stream among the inputs.
pub(super) fn touches_of(stream: usize) -> usize {
    stream + 1
}

/// For each touch stream its precedence and the least timestamp that is still in time.
fn open_from(times: &InputTimes, streams: &[TouchStream]) -> impl Iterator<Item = (u8, Timestamp)> {
    streams.iter().enumerate().map(|(number, stream)| {
        let from = times.in_time_from(touches_of(number));
        (stream.window.precedence, from)
    })
}

/// A hash of what a result says, never 0.
fn digest<T>(credits: &[Credit<T>], truncated: usize) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(&truncated.to_le_bytes());
    for credit in credits {
        for text in [&credit.stream, &credit.touch_id] {
            hash.update(&text.len().to_le_bytes());
            hash.update(text.as_bytes());
        }
        for number in [
            credit.timestamp,
            credit.credit_micros,
            credit.share_millionths,
        ] {
            hash.update(&number.to_le_bytes());
        }
    }
    hash.digest128().max(1)
}

fn fault(operator: &str, part: &str, error: SerdeError) -> Fault {
    Fault::serde(format_args!("a {part} of attribution {operator}"), error)
}
