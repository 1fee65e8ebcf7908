//! The Agent's side of the registration, and nothing else of it: a test decides what it opens.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use akri_proto::v0::{
    Empty, RegisterDiscoveryHandlerRequest,
    registration_server::{Registration, RegistrationServer},
};
use tokio::{net::UnixListener, sync::watch, task::JoinHandle};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, async_trait, transport::Server};

/// Takes registrations until it is dropped, which leaves the socket's file behind as a killed Agent does.
pub struct Agent {
    pub socket: PathBuf,
    registrations: watch::Sender<Vec<RegisterDiscoveryHandlerRequest>>,
    answer: Arc<Mutex<Option<Status>>>,
    serving: JoinHandle<()>,
}

struct Answers(
    watch::Sender<Vec<RegisterDiscoveryHandlerRequest>>,
    Arc<Mutex<Option<Status>>>,
);

#[async_trait]
impl Registration for Answers {
    async fn register_discovery_handler(
        &self,
        request: Request<RegisterDiscoveryHandlerRequest>,
    ) -> Result<Response<Empty>, Status> {
        self.0
            .send_modify(|registrations| registrations.push(request.into_inner()));
        match self.1.lock().unwrap().clone() {
            Some(status) => Err(status),
            None => Ok(Response::new(Empty {})),
        }
    }
}

impl Agent {
    /// Removes what an earlier one left, and binds anew (rule 6).
    pub fn start(directory: &Path) -> Self {
        Self::start_answering(directory, None)
    }

    pub fn start_answering(directory: &Path, answer: Option<Status>) -> Self {
        let socket = directory.join("agent-registration.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let registrations = watch::Sender::default();
        let answer = Arc::new(Mutex::new(answer));
        let answers = Answers(registrations.clone(), answer.clone());
        let serving = tokio::spawn(async move {
            Server::builder()
                .serve_with_incoming(
                    RegistrationServer::new(answers),
                    UnixListenerStream::new(listener),
                )
                .await
                .unwrap();
        });
        Self {
            socket,
            registrations,
            answer,
            serving,
        }
    }

    pub fn answer(&self, answer: Option<Status>) {
        *self.answer.lock().unwrap() = answer;
    }

    pub fn count(&self) -> usize {
        self.registrations.borrow().len()
    }

    /// Waits for that many registrations in all; the last one.
    pub async fn registered(&self, count: usize) -> RegisterDiscoveryHandlerRequest {
        let mut registrations = self.registrations.subscribe();
        let enough = registrations.wait_for(|registrations| registrations.len() >= count);
        super::soon(enough).await.unwrap().last().unwrap().clone()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
