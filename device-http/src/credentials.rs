//! What proves to a server who asks, and which servers are trusted. No I/O.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};

/// The longest token, user name, password or value of a header, in bytes: servers take hardly more.
const MAX_VALUE: usize = 16 * 1024;

/// What one request proves and trusts. Nothing of it is ever shown. Whatever is in it has been checked, and is used as it was
/// parsed for that. Clones share what is large.
#[derive(Clone, Default)]
pub struct Credentials {
    headers: Vec<(HeaderName, HeaderValue)>,
    authorities: Option<Arc<RootCertStore>>,
    identity: Option<Arc<CertifiedKey>>,
}

/// What credentials are compared by.
type Compared<'a> = (
    &'a [(HeaderName, HeaderValue)],
    Option<&'a [TrustAnchor<'static>]>,
    Option<&'a [CertificateDer<'static>]>,
);

impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        self.compared() == other.compared()
    }
}

impl Eq for Credentials {}

impl Hash for Credentials {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.compared().hash(state);
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(not shown)")
    }
}

/// Why a credential cannot be used, to be read after its name. Nothing of the credential is in it.
pub type Why = &'static str;

/// Which half of a client certificate is wrong, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// The certificate, or its chain.
    Certificate(Why),
    /// The private key.
    Key(Why),
}

impl Credentials {
    /// Sends `Authorization: Bearer` with this token. A line feed at its end is forgiven.
    ///
    /// # Errors
    /// It is empty, too long, or no token.
    pub fn set_bearer(&mut self, token: &[u8]) -> Result<(), Why> {
        let token = text(token)?;
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has a character that no token has");
        }
        self.add_header(AUTHORIZATION, &format!("Bearer {token}"))
    }

    /// Sends `Authorization: Basic`. Both have been read with [`text`].
    ///
    /// # Errors
    /// The user name has a colon.
    pub fn set_basic(&mut self, user: &str, password: &str) -> Result<(), Why> {
        if user.contains(':') {
            return Err("has a colon");
        }
        let both = BASE64_STANDARD.encode(format!("{user}:{password}"));
        self.add_header(AUTHORIZATION, &format!("Basic {both}"))
    }

    /// Sends one more header.
    ///
    /// # Errors
    /// The value is none, or the header is there already.
    pub fn add_header(&mut self, name: HeaderName, value: &str) -> Result<(), Why> {
        let mut value =
            HeaderValue::from_str(value).map_err(|_| "has a character that no header has")?;
        value.set_sensitive(true);
        if self.headers.iter().any(|(known, _)| *known == name) {
            return Err("has the same header twice");
        }
        self.headers.push((name, value));
        Ok(())
    }

    /// Trusts servers whose certificates come from these authorities, and no others.
    ///
    /// # Errors
    /// They are no certificates in PEM.
    pub fn set_authorities(&mut self, pem: &[u8]) -> Result<(), Why> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem)? {
            let added = roots.add(certificate);
            added.map_err(|_| "has a certificate that is damaged or of no use")?;
        }
        roots.roots.shrink_to_fit();
        self.authorities = Some(roots.into());
        Ok(())
    }

    /// Answers with this certificate where a server asks for one.
    ///
    /// # Errors
    /// Something is not PEM, the key is of an unknown kind, or they do not belong together.
    pub fn set_identity(&mut self, chain: &[u8], key: &[u8]) -> Result<(), IdentityError> {
        let certificates = certificates(chain).map_err(IdentityError::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| IdentityError::Key("holds no private key in PEM"))?;
        let signs = any_supported_type(&key)
            .map_err(|_| IdentityError::Key("is damaged, or a key of a kind that TLS has not"))?;
        let identity = CertifiedKey::new(certificates, signs);
        identity.keys_match().map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                IdentityError::Key("does not belong to the certificate")
            }
            _ => IdentityError::Certificate("is damaged"),
        })?;
        self.identity = Some(identity.into());
        Ok(())
    }

    fn compared(&self) -> Compared<'_> {
        let roots = (self.authorities.as_ref()).map(|authorities| &*authorities.roots);
        // Its key belongs to it, so that there is no other one.
        let chain = (self.identity.as_ref()).map(|identity| &*identity.cert);
        (&self.headers, roots, chain)
    }

    /// Whether they say who asks, as a user name in a URL does too.
    pub fn has_authorization(&self) -> bool {
        self.headers.iter().any(|(name, _)| *name == AUTHORIZATION)
    }

    /// Whether there is something that not everybody may see: then it is for one server alone.
    pub(crate) fn is_secret(&self) -> bool {
        !self.headers.is_empty() || self.identity.is_some()
    }

    pub(crate) fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        self.headers.iter().cloned()
    }

    /// These, and the process's where there are none: its authorities, and its token and its certificate where there is
    /// neither a header nor a certificate.
    pub(crate) fn or(&self, process: &Self) -> Self {
        let proves = if self.is_secret() { self } else { process };
        Self {
            headers: proves.headers.clone(),
            identity: proves.identity.clone(),
            authorities: (self.authorities.as_ref().or(process.authorities.as_ref())).cloned(),
        }
    }

    /// What decides about connections: without the headers.
    pub(crate) fn tls(&self) -> Self {
        Self {
            headers: Vec::new(),
            ..self.clone()
        }
    }

    /// How TLS is spoken with them; `system` are the authorities where they have none.
    pub(crate) fn tls_config(&self, system: &Arc<RootCertStore>) -> ClientConfig {
        let roots = self.authorities.as_ref().unwrap_or(system);
        let config = ClientConfig::builder().with_root_certificates(roots.clone());
        let mut config = match &self.identity {
            Some(identity) => {
                let resolver = SingleCertAndKey::from(identity.clone());
                config.with_client_cert_resolver(Arc::new(resolver))
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }
}

/// A credential that is text, without the line feed that an editor or `kubectl create secret --from-file` leaves at its end.
///
/// # Errors
/// It is empty, too long, not UTF-8, or has a control character.
pub fn text(bytes: &[u8]) -> Result<&str, Why> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8 text")?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    match text {
        "" => Err("is empty"),
        text if text.len() > MAX_VALUE => Err("is longer than 16384 bytes"),
        text if text.contains(char::is_control) => Err("has a control character"),
        text => Ok(text),
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Why> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err("holds no certificate in PEM"),
        Ok(certificates) => Ok(certificates),
        Err(_) => Err("is not whole PEM"),
    }
}
