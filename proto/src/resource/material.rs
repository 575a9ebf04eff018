//! Secret and ConfigMap: where TLS material lies.
//!
//! `stringData` is folded into `data` when a Secret is read, as Kubernetes does it. Neither `Debug` nor a finding
//! shows what a Secret holds.

use std::{collections::BTreeMap, fmt};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use serde::{Deserialize, Serialize};

/// The key of a certificate chain.
pub const TLS_CERTIFICATE: &str = "tls.crt";
/// The key of a private key.
pub const TLS_KEY: &str = "tls.key";
/// The key of certificates of authorities.
pub const CA_CERTIFICATES: &str = "ca.crt";
/// The type of a Secret that must have [`TLS_CERTIFICATE`] and [`TLS_KEY`].
pub const TLS_SECRET: &str = "kubernetes.io/tls";

/// Bytes by key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenSecret", into = "WrittenSecret")]
pub struct Secret {
    /// What it is for; [`TLS_SECRET`], or `Opaque`.
    pub r#type: String,
    /// What it holds.
    pub data: BTreeMap<String, Vec<u8>>,
}

/// Says which keys there are, not what they hold.
impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Secret").field("type", &self.r#type).field("keys", &self.data.keys()).finish()
    }
}

/// Base64 without or with padding, as it comes out of different tools.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

fn opaque() -> String {
    "Opaque".to_owned()
}

/// A Secret as it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenSecret {
    #[serde(default = "opaque")]
    r#type: String,
    #[serde(default)]
    data: BTreeMap<String, Base64>,
    #[serde(default, skip_serializing)]
    string_data: BTreeMap<String, String>,
    #[serde(default, skip_serializing, rename = "immutable")]
    _immutable: bool,
}

impl From<WrittenSecret> for Secret {
    fn from(written: WrittenSecret) -> Self {
        let mut data: BTreeMap<String, Vec<u8>> =
            written.data.into_iter().map(|(key, value)| (key, value.0)).collect();
        data.extend(written.string_data.into_iter().map(|(key, value)| (key, value.into_bytes())));
        Self { r#type: written.r#type, data }
    }
}

impl From<Secret> for WrittenSecret {
    fn from(secret: Secret) -> Self {
        Self {
            r#type: secret.r#type,
            data: secret.data.into_iter().map(|(key, value)| (key, Base64(value))).collect(),
            string_data: BTreeMap::new(),
            _immutable: false,
        }
    }
}

/// Bytes that are written as base64; line breaks in it do not matter.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Base64(Vec<u8>);

impl TryFrom<String> for Base64 {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let dense: String = text.chars().filter(|letter| !letter.is_ascii_whitespace()).collect();
        let bytes = LENIENT.decode(dense);
        bytes.map(Self).map_err(|_| "is not base64; text as it is belongs into \"stringData\"")
    }
}

impl From<Base64> for String {
    fn from(bytes: Base64) -> Self {
        STANDARD.encode(bytes.0)
    }
}

/// Text by key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenConfigMap", into = "WrittenConfigMap")]
pub struct ConfigMap {
    /// What it holds.
    pub data: BTreeMap<String, String>,
}

/// A ConfigMap as it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenConfigMap {
    #[serde(default)]
    data: BTreeMap<String, String>,
    #[serde(default, skip_serializing, rename = "immutable")]
    _immutable: bool,
}

impl From<WrittenConfigMap> for ConfigMap {
    fn from(written: WrittenConfigMap) -> Self {
        Self { data: written.data }
    }
}

impl From<ConfigMap> for WrittenConfigMap {
    fn from(map: ConfigMap) -> Self {
        Self { data: map.data, _immutable: false }
    }
}
