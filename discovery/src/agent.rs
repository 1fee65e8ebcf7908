//! What is known about the Agent, and whether it has to be told about this handler. No I/O.

use crate::{directory::FileId, streams::Streams};

#[derive(Default)]
pub(crate) struct Known {
    /// The Agent's socket when it last took our registration.
    registered_with: Option<FileId>,
    /// How many streams had ended by then.
    ended: u64,
    /// How often the own socket had been bound by then.
    bound: u64,
    /// The socket that we try to register with.
    tried: Option<FileId>,
    /// The socket behind which an Agent was asked, and how many streams were opened before it was.
    asked: Option<(FileId, u64)>,
}

/// What can be seen now.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    /// The Agent's socket.
    pub socket: FileId,
    /// Our streams.
    pub streams: Streams,
    /// How often the own socket was bound.
    pub bound: u64,
}

impl Known {
    /// The Agent took our registration.
    pub fn registered(&mut self, seen: Seen) {
        *self = Self {
            registered_with: Some(seen.socket),
            ended: seen.streams.ended,
            bound: seen.bound,
            tried: None,
            asked: None,
        };
    }

    /// An Agent was reached, and has not answered yet.
    pub fn asked(&mut self, seen: Seen) {
        self.asked.get_or_insert((seen.socket, seen.streams.opened));
    }

    /// We are about to register. Says whether this is an Agent that we have not tried yet.
    pub fn try_with(&mut self, seen: Seen) -> bool {
        let is_new = self.tried != Some(seen.socket) && self.registered_with != Some(seen.socket);
        if is_new {
            (self.tried, self.asked) = (Some(seen.socket), None);
        }
        is_new
    }

    /// Whether the Agent has to be told about us.
    pub fn needs_us(&mut self, seen: Seen) -> bool {
        let Seen {
            socket,
            streams,
            bound,
        } = seen;
        // An Agent that opens streams took the registration, although we did not hear so.
        if streams.open > 0
            && self
                .asked
                .is_some_and(|(asked, opened)| asked == socket && streams.opened > opened)
        {
            self.registered(seen);
        }
        let Some(registered_with) = self.registered_with else {
            return true;
        };
        if !registered_with.may_be(&socket) {
            return true;
        }
        // Open streams prove that the Agent lives and knows us (rule 5). Without them the socket may be another one (rule 6),
        // and an Agent that dropped the last stream may have forgotten us.
        streams.open == 0
            && (registered_with != socket || streams.ended > self.ended || bound > self.bound)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::directory::FileTime;

    fn file(inode: u64, time: FileTime) -> FileId {
        FileId {
            inode: (1, inode),
            time,
        }
    }

    fn born(seconds: u64) -> FileTime {
        FileTime::Born(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    fn seen(socket: FileId, open: usize, ended: u64) -> Seen {
        let streams = Streams {
            open,
            opened: open as u64 + ended,
            ended,
        };
        Seen {
            socket,
            streams,
            bound: 1,
        }
    }

    #[test]
    fn who_needs_a_registration() {
        let (agent, other) = (file(1, born(1)), file(2, born(2)));
        let same_inode = file(1, born(2));
        let mut known = Known::default();
        assert!(known.needs_us(seen(agent, 0, 0)), "nobody was told yet");
        known.registered(seen(agent, 0, 0));
        for (seen, needs_us, why) in [
            (seen(agent, 0, 0), false, "it was told"),
            (seen(agent, 2, 0), false, "it asks"),
            (seen(agent, 1, 1), false, "one of two streams dropped"),
            (seen(agent, 0, 2), true, "the last stream dropped"),
            (seen(other, 0, 0), true, "another socket"),
            (
                seen(other, 1, 0),
                true,
                "another socket, old streams still open",
            ),
            (
                seen(same_inode, 1, 0),
                true,
                "another socket with an old inode number, a foreign stream open",
            ),
        ] {
            assert_eq!(known.needs_us(seen), needs_us, "{why}");
        }
    }

    #[test]
    fn a_lost_own_socket_has_to_be_registered_again_where_no_stream_is_open() {
        let agent = file(1, born(1));
        let mut known = Known::default();
        known.registered(seen(agent, 0, 0));
        let bound_again = |open| Seen {
            bound: 2,
            ..seen(agent, open, 0)
        };
        assert!(known.needs_us(bound_again(0)));
        assert!(!known.needs_us(bound_again(1)));
    }

    #[test]
    fn a_socket_that_may_be_another_one_counts_as_one_unless_a_stream_is_open() {
        let at = |seconds| file(1, FileTime::Changed(seconds, 0));
        let mut known = Known::default();
        known.registered(seen(at(1), 0, 0));
        assert!(known.needs_us(seen(at(2), 0, 0)));
        assert!(!known.needs_us(seen(at(2), 1, 0)));
    }

    #[test]
    fn an_agent_that_opens_a_stream_knows_us_whatever_it_answered() {
        let (agent, other) = (file(1, born(1)), file(2, born(2)));
        let mut known = Known::default();
        known.registered(seen(agent, 0, 0));
        assert!(known.try_with(seen(other, 0, 5)));
        assert!(!known.try_with(seen(other, 0, 5)), "it was tried");
        assert!(
            known.needs_us(seen(other, 1, 5)),
            "it was not reached, so the stream is another's"
        );
        known.asked(seen(other, 0, 5));
        assert!(!known.needs_us(seen(other, 1, 5)));
    }
}
