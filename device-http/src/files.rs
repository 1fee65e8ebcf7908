//! The process's own credentials, from files that are read again when they change.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use akri_daemon::{BadSetting, Outage, causes, one_line};
use clap::Args;

use crate::{Credentials, credentials::IdentityError};

/// The longest file, in bytes: room for all the authorities that a system has.
const MAX_FILE: u64 = 1024 * 1024;

/// A file that changed this recently may change once more without its time showing it.
const FRESH: Duration = Duration::from_secs(2);

/// Where the process's own credentials are; to be flattened into its settings. They may lie in a mounted Secret.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialFiles {
    /// File with a token to send as "Authorization: Bearer"; read again when it changes
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = file)]
    // By its whole name, since clap takes an `Option` for an argument that may be left out.
    pub bearer_token_file: std::option::Option<PathBuf>,

    /// PEM file with the authorities to trust in place of the system's; read again when it changes
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = file)]
    pub ca_file: std::option::Option<PathBuf>,

    /// PEM file with a client certificate and its chain; read again when it changes
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = file)]
    pub client_cert_file: std::option::Option<PathBuf>,

    /// PEM file with the client certificate's private key; read again when it changes
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = file)]
    pub client_key_file: std::option::Option<PathBuf>,
}

#[expect(clippy::unnecessary_wraps, reason = "clap wants a Result")]
fn file(text: &str) -> Result<Option<PathBuf>, String> {
    Ok(Some(text)
        .filter(|text| !text.is_empty())
        .map(PathBuf::from))
}

impl CredentialFiles {
    /// Each with the variable that names it.
    fn named(&self) -> [(&'static str, Option<&Path>); 4] {
        [
            ("BEARER_TOKEN_FILE", self.bearer_token_file.as_deref()),
            ("CA_FILE", self.ca_file.as_deref()),
            ("CLIENT_CERT_FILE", self.client_cert_file.as_deref()),
            ("CLIENT_KEY_FILE", self.client_key_file.as_deref()),
        ]
    }
}

/// What tells one content of a file from another, where the file is reached through links.
#[derive(PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The files, and what was in them when all of it was good.
pub(crate) struct Files {
    files: CredentialFiles,
    state: Mutex<State>,
}

struct State {
    /// `None` where they have to be read.
    stamps: Option<Vec<Stamp>>,
    good: Option<Arc<Credentials>>,
    outage: Outage,
}

impl Files {
    /// `None` where no file is set.
    pub fn new(files: CredentialFiles) -> Result<Option<Self>, BadSetting> {
        if files.client_cert_file.is_some() != files.client_key_file.is_some() {
            return Err(BadSetting(
                "CLIENT_CERT_FILE and CLIENT_KEY_FILE have to be set together".into(),
            ));
        }
        if files == CredentialFiles::default() {
            return Ok(None);
        }
        let state = State {
            stamps: None,
            good: None,
            outage: Outage::new(module_path!(), "credentials"),
        };
        Ok(Some(Self {
            files,
            state: Mutex::new(state),
        }))
    }

    pub fn has_authorities(&self) -> bool {
        self.files.ca_file.is_some()
    }

    /// What is in the files now, or was when all of it was good: a rotation that is under way costs no request. The same
    /// `Arc` as long as it is the same. The files are small and on this machine, so reading them here holds nothing up.
    ///
    /// # Errors
    /// What is wrong, if it never was good.
    pub fn now(&self) -> Result<Arc<Credentials>, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the reading, so that what changes in between is read the next time.
        let stamps = self.stamps();
        if let (Ok(stamps), Some(good)) = (&stamps, &state.good)
            && state.stamps.as_ref() == Some(stamps)
        {
            return Ok(good.clone());
        }
        state.stamps = None;
        match stamps.and_then(|stamps| Ok((stamps, self.read()?))) {
            Ok((stamps, credentials)) => {
                state.stamps = stamps
                    .iter()
                    .all(|stamp| !stamp.is_fresh())
                    .then_some(stamps);
                state.outage.succeeded();
                if let Some(good) = &state.good {
                    if **good == credentials {
                        return Ok(good.clone());
                    }
                    log::info!("credentials: their files have changed, and are used from now on");
                }
                let good = Arc::new(credentials);
                state.good = Some(good.clone());
                Ok(good)
            }
            Err(why) => {
                let consequence = match state.good {
                    Some(_) => "those that were read before stay in use",
                    None => "until they are good nothing can be asked",
                };
                state.outage.failed(&why, consequence);
                state.good.clone().ok_or(why)
            }
        }
    }

    fn stamps(&self) -> Result<Vec<Stamp>, String> {
        let set = self.files.named().into_iter();
        let set = set.filter_map(|(name, path)| Some((name, path?)));
        set.map(|(name, path)| {
            let metadata = fs::metadata(path).map_err(|error| failed(name, path, &error))?;
            // Opening a pipe would wait for its writer.
            if !metadata.is_file() {
                return Err(wrong(name, path, "is not a file"));
            }
            Ok(Stamp::of(&metadata))
        })
        .collect()
    }

    fn read(&self) -> Result<Credentials, String> {
        let mut credentials = Credentials::default();
        let [token, ca, cert, key] = self.files.named();
        if let (name, Some(path)) = token {
            let set = credentials.set_bearer(&contents(name, path)?);
            set.map_err(|why| wrong(name, path, why))?;
        }
        if let (name, Some(path)) = ca {
            let set = credentials.set_authorities(&contents(name, path)?);
            set.map_err(|why| wrong(name, path, why))?;
        }
        if let ((cert, Some(chain)), (key, Some(private))) = (cert, key) {
            let set = credentials.set_identity(&contents(cert, chain)?, &contents(key, private)?);
            set.map_err(|error| match error {
                IdentityError::Certificate(why) => wrong(cert, chain, why),
                IdentityError::Key(why) => wrong(key, private, why),
            })?;
        }
        Ok(credentials)
    }
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn is_fresh(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let changed = u64::try_from(self.changed.0).unwrap_or_default();
        now.unwrap_or_default() < Duration::from_secs(changed) + FRESH
    }
}

fn contents(name: &str, path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() as u64 > MAX_FILE => Err(wrong(name, path, "is longer than 1 MiB")),
        Ok(_) => Ok(bytes),
        Err(error) => Err(failed(name, path, &error)),
    }
}

fn wrong(name: &str, path: &Path, why: &str) -> String {
    format!("{name}={} {why}", one_line(&path.to_string_lossy()))
}

fn failed(name: &str, path: &Path, error: &std::io::Error) -> String {
    let why = causes(error).last().map(ToString::to_string);
    wrong(
        name,
        path,
        &format!("cannot be read: {}", why.unwrap_or_default()),
    )
}
