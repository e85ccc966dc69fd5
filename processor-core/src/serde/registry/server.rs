//! A registry server, over HTTP: what its answers mean, and who makes the requests.

use std::collections::HashMap;
use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use schema_registry_converter::async_impl::schema_registry::{
    SrSettings, get_schema_by_id, post_schema,
};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{RawError, SchemaType, SuppliedSchema};

use super::background::{Background, Fetched, Source};
use super::{Lookup, RegistryError, SchemaId, SchemaRegistry};
use crate::serde::AvroSchema;

/// Error codes of Confluent's interface.
const SCHEMA_NOT_FOUND: u32 = 40_403;
const INCOMPATIBLE: u32 = 409;
/// Denials in a row after which a schema is missing.
const DENIALS: u32 = 4;

/// Who we are to a server. Not shown when it is printed.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user (or API key) with a password (or API secret).
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A bearer token.
    Bearer(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// How a server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerRegistryOptions {
    /// Address of the interface, without a slash at the end: `http://registry:8081`, or
    /// `http://apicurio:8080/apis/ccompat/v7`.
    pub url: String,
    /// Further addresses of the same registry, tried in order.
    pub more_urls: Vec<String>,
    /// Who we are, where the server asks.
    pub credentials: Option<Credentials>,
    /// How long a request may take.
    pub timeout: Duration,
}

impl ServerRegistryOptions {
    /// The server at `url`, without credentials, with 10 seconds for a request.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            more_urls: Vec::new(),
            credentials: None,
            timeout: Duration::from_secs(10),
        }
    }
}

/// A registry server with Confluent's interface: Confluent's own, Apicurio, and others.
///
/// Requests run on a background thread with a runtime of its own, whatever runs the caller. A server that does not answer
/// is asked again until it does; how long a record waits for that is up to
/// [`max_decode_wait`](crate::StreamsConfig::max_decode_wait). Schemas that refer to other subjects, and schemas that are
/// not Avro, are unknown here, with the reason.
///
/// ```
/// use processor_core::serde::AvroSchema;
/// use processor_core::serde::registry::{
///     SchemaRegistry, ServerRegistry, ServerRegistryOptions,
/// };
///
/// // Nothing is asked of the server until something is needed from it.
/// let registry = ServerRegistry::new(&ServerRegistryOptions::new("http://127.0.0.1:9")).unwrap();
/// let error = registry.register("names-value", AvroSchema::parse(r#""string""#).unwrap()).unwrap_err();
/// assert!(error.is_retriable());
/// ```
pub struct ServerRegistry {
    background: Background<Server>,
    url: String,
}

impl ServerRegistry {
    /// A client of the server. Does not connect yet.
    ///
    /// # Errors
    /// When the options make no client.
    pub fn new(options: &ServerRegistryOptions) -> Result<Self, RegistryError> {
        let unusable = |reason: String| RegistryError::Unusable {
            registry: options.url.clone(),
            reason,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| unusable(format!("no runtime for its client: {error}")))?;
        let settings = settings(options).map_err(|error| unusable(said(&error)))?;
        let server = Server {
            runtime,
            settings,
            denials: HashMap::new(),
        };
        let background = Background::start(server)
            .map_err(|error| unusable(format!("its thread cannot be started: {error}")))?;
        Ok(Self {
            background,
            url: options.url.clone(),
        })
    }
}

fn settings(options: &ServerRegistryOptions) -> Result<SrSettings, SRCError> {
    let mut settings = SrSettings::new_builder(options.url.clone());
    for url in &options.more_urls {
        settings.add_url(url.clone());
    }
    match &options.credentials {
        Some(Credentials::Basic { user, password }) => {
            settings.set_basic_authorization(user, Some(password));
        }
        Some(Credentials::Bearer(token)) => {
            settings.set_token_authorization(token);
        }
        None => {}
    }
    settings.set_timeout(options.timeout).build()
}

impl SchemaRegistry for ServerRegistry {
    fn register(&self, subject: &str, schema: AvroSchema) -> Result<SchemaId, RegistryError> {
        let owned = subject.to_owned();
        let call = move |server: &mut Server| server.register(owned, schema);
        let result = self
            .background
            .call(call)
            .ok_or_else(|| RegistryError::Unusable {
                registry: self.url.clone(),
                reason: "its thread has panicked".to_owned(),
            })?;
        let id = result.map_err(|error| refusal(&error, subject, &self.url))?;
        self.background.learn(id, schema);
        Ok(id)
    }

    fn schema(&self, id: SchemaId) -> Lookup {
        self.background.lookup(id)
    }
}

struct Server {
    runtime: tokio::runtime::Runtime,
    settings: SrSettings,
    /// How often the server has said in a row that it does not know an id.
    denials: HashMap<SchemaId, u32>,
}

impl Server {
    fn register(&self, subject: String, schema: AvroSchema) -> Result<SchemaId, SRCError> {
        let text = schema.text().to_owned();
        let schema = SuppliedSchema::new(schema.name(), SchemaType::Avro, text);
        let call = post_schema(&self.settings, subject, schema);
        Ok(SchemaId(self.runtime.block_on(call)?.id))
    }
}

impl Source for Server {
    fn fetch(&mut self, id: SchemaId) -> Fetched {
        match self
            .runtime
            .block_on(get_schema_by_id(id.0, &self.settings))
        {
            Ok(found) if found.schema_type != SchemaType::Avro => {
                Fetched::Missing(format!("it is {:?} and not Avro", found.schema_type))
            }
            Ok(found) if !found.references.is_empty() => {
                Fetched::Missing("it refers to other subjects, which is not supported".to_owned())
            }
            Ok(found) => match AvroSchema::parse(&found.schema) {
                Ok(schema) => Fetched::Found(schema),
                Err(error) => Fetched::Missing(error.to_string()),
            },
            Err(error) if passes(&error) => Fetched::Later(said(&error)),
            Err(error) => self.denied(id, said(&error)),
        }
    }
}

impl Server {
    /// NOTE: One denial is not believed. Registries of several nodes answer from any, and a node may be a moment behind the
    /// one that took the registration.
    fn denied(&mut self, id: SchemaId, reason: String) -> Fetched {
        let denials = self.denials.entry(id).or_default();
        *denials += 1;
        if *denials < DENIALS {
            return Fetched::Later(reason);
        }
        self.denials.remove(&id);
        Fetched::Missing(reason)
    }
}

/// What the server answered, if it did.
fn answer(error: &SRCError) -> Option<&RawError> {
    error.source()?.downcast_ref()
}

/// Whether a request may succeed later: the server was not reached, or has a problem of its own.
fn passes(error: &SRCError) -> bool {
    match answer(error) {
        _ if error.retriable => true,
        Some(RawError { error_code, .. }) if *error_code == SCHEMA_NOT_FOUND => false,
        // A proxy in between, or no registry at all: the client keeps the status in its text only.
        _ => error.error.contains("status 5") || error.error.contains("status 429"),
    }
}

fn refusal(error: &SRCError, subject: &str, url: &str) -> RegistryError {
    let reason = said(error);
    match answer(error) {
        _ if passes(error) => RegistryError::Unavailable {
            registry: url.to_owned(),
            reason,
        },
        Some(RawError { error_code, .. }) if *error_code == INCOMPATIBLE => {
            RegistryError::Incompatible {
                subject: subject.to_owned(),
                reason,
            }
        }
        _ => RegistryError::Refused {
            subject: subject.to_owned(),
            reason,
        },
    }
}

/// What happened, in the words of the server where it had any.
fn said(error: &SRCError) -> String {
    match answer(error) {
        Some(raw) if raw.error_code != 0 => raw.message.clone(),
        _ => match &error.cause {
            Some(cause) => format!("{}: {cause}", error.error),
            None => error.error.clone(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: u32, status: u16) -> SRCError {
        // The client's own type has no constructor; this is how it reads one off the wire.
        let json = format!(r#"{{"error_code":{code},"message":"so it is"}}"#);
        let raw: RawError = serde_json::from_str(&json).unwrap();
        let text = format!("HTTP request to schema registry failed with status {status}");
        SRCError::non_retryable_with_cause(raw, &text)
    }

    #[test]
    fn answers_are_told_from_outages() {
        assert!(!passes(&answered(SCHEMA_NOT_FOUND, 404)));
        assert!(!passes(&answered(40_301, 403)));
        assert!(passes(&answered(50_001, 500)));
        assert!(passes(&SRCError::new("refused", None, true)));
    }

    #[test]
    fn a_denial_is_believed_when_it_is_repeated() {
        let options = ServerRegistryOptions::new("http://127.0.0.1:9");
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let mut server = Server {
            runtime: runtime.unwrap(),
            settings: settings(&options).unwrap(),
            denials: HashMap::new(),
        };
        for _ in 0..2 {
            for _ in 1..DENIALS {
                let answer = server.denied(SchemaId(1), String::new());
                assert!(matches!(answer, Fetched::Later(_)));
            }
            let answer = server.denied(SchemaId(1), String::new());
            assert!(matches!(answer, Fetched::Missing(_)));
        }
    }

    #[test]
    fn a_refusal_says_what_the_server_said() {
        let incompatible = refusal(&answered(INCOMPATIBLE, 409), "s", "u");
        assert_eq!(
            incompatible,
            RegistryError::Incompatible {
                subject: "s".to_owned(),
                reason: "so it is".to_owned()
            }
        );
        let refused = refusal(&answered(42_201, 422), "s", "u");
        assert!(matches!(refused, RegistryError::Refused { .. }));
        assert!(refusal(&answered(50_001, 500), "s", "u").is_retriable());
    }

    #[test]
    fn credentials_are_not_printed() {
        let mut options = ServerRegistryOptions::new("http://registry");
        options.credentials = Some(Credentials::Basic {
            user: "me".to_owned(),
            password: "secret".to_owned(),
        });
        assert!(!format!("{options:?}").contains("secret"));
    }
}
