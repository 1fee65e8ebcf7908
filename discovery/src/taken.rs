//! What becomes of what the handler found: the list that stands, and what the log, the metrics and the disk hear of it. No
//! timers.

use std::{sync::Arc, time::Duration};

use akri_daemon::{LineBudget, Outage};
use anyhow::{Context, anyhow};
use log::Level;
use tokio::{sync::watch, time::Instant};

use crate::{
    Devices, DiscoveryHandler,
    grace::Missing,
    list::DeviceList,
    news::{Called, News},
    observed::{Observed, Report, Shown},
    poll::{List, Pollers},
    saved::Saver,
};

/// What was found for one request.
pub(crate) struct Taken<'a, H: DiscoveryHandler> {
    grace: Duration,
    lists: &'a watch::Sender<List>,
    /// The list that stands.
    last: Option<Arc<DeviceList>>,
    /// The devices of that list that are missing and kept.
    missing: Missing,
    /// Since when the handler is asked, until it has answered.
    asked: Option<Instant>,
    outage: Outage,
    news: News<'a, H>,
    observed: &'a Observed,
    report: Report,
    saver: Option<Saver>,
}

impl<'a, H: DiscoveryHandler> Taken<'a, H> {
    /// Nothing yet. `budget` is for its log lines.
    pub fn new(
        pollers: &'a Pollers<H>,
        request: &'a H::Request,
        lists: &'a watch::Sender<List>,
        budget: impl Fn() -> LineBudget,
    ) -> Self {
        let (handler, observed) = (pollers.handler(), pollers.observed());
        let name = Called(request).to_string();
        let report = observed.report(&name);
        report.update(|polled| polled.loading = pollers.saved().is_some());
        let saver = pollers.saved().map(|saved| {
            let path = saved.path(|list| handler.identify(request, list));
            saved.keep(path, &name, budget())
        });
        Self {
            grace: pollers.times(request).grace,
            lists,
            last: None,
            missing: Missing::default(),
            asked: None,
            outage: Outage::with_budget(module_path!(), name, budget()),
            news: News::new(handler, pollers.shared(), request, budget()),
            observed,
            report,
            saver,
        }
    }

    pub fn has_list(&self) -> bool {
        self.last.is_some()
    }

    /// Takes the list that a poller before this one has sent, which panicked; whether there is one.
    pub fn knows_the_last(&mut self) -> bool {
        let last = self.lists.borrow().clone();
        if let Some(list) = &last {
            self.knows(list.clone(), Duration::ZERO);
        }
        last.is_some()
    }

    /// Takes the list of a process that is no more, if there is one, and sends it; how old it is.
    pub fn loaded(&mut self, saved: Option<(DeviceList, Duration)>) -> Option<Duration> {
        self.report.update(|polled| polled.loading = false);
        let (list, age) = saved?;
        self.news.of_saved(&list, age);
        let list = Arc::new(list);
        self.lists.send_replace(Some(list.clone()));
        self.knows(list, age);
        Some(age)
    }

    fn knows(&mut self, list: Arc<DeviceList>, age: Duration) {
        let shown = Shown {
            good: Instant::now().checked_sub(age).unwrap_or_else(Instant::now),
            devices: list.len(),
            missing: 0,
            collisions: 0,
        };
        self.report.update(|polled| polled.list = Some(shown));
        self.last = Some(list);
    }

    /// The handler is asked now.
    pub fn begins(&mut self) {
        self.asked = Some(Instant::now());
    }

    /// Whether it has not answered yet.
    pub fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Takes all devices that are there now.
    ///
    /// # Errors
    /// They do not fit into one message (rule 11).
    pub fn take(&mut self, devices: Devices) -> anyhow::Result<()> {
        let before = self.last.clone().unwrap_or_default();
        let kept = (self.missing).keep(&before, &devices, Instant::now(), self.grace);
        self.news.of_missing(&kept, self.grace);
        let list = before.next(&devices.with(&kept.all, &before));
        let list = list.map_err(|error| match kept.all.len() {
            0 => anyhow!(error),
            kept => anyhow!("{error}; {kept} of them are missing and kept"),
        })?;
        self.stands(Arc::new(list));
        Ok(())
    }

    /// The devices are those that were taken last, as far as they were not missing then.
    ///
    /// # Errors
    /// None were.
    pub fn same(&mut self) -> anyhow::Result<()> {
        let last = self.last.clone();
        let last =
            last.context("the handler says that nothing has changed, although nothing was known")?;
        let gone = self.missing.given_up(Instant::now(), self.grace);
        match gone.is_empty() {
            true => self.stands(last),
            false => self.stands(Arc::new(last.next(&last.without(&gone))?)),
        }
        Ok(())
    }

    /// The handler has returned without an error.
    ///
    /// # Errors
    /// As for [`same`](Self::same).
    pub fn ended(&mut self) -> anyhow::Result<()> {
        match self.is_asked() {
            true => self.same(),
            false => Ok(()),
        }
    }

    /// This list is right now; it is sent where it is another one than before.
    fn stands(&mut self, list: Arc<DeviceList>) {
        self.answered();
        self.outage.succeeded();
        let known = self.last.replace(list.clone());
        if known.as_ref() == Some(&list) {
            self.report.update(|polled| polled.unchanged += 1);
        } else {
            self.news.of_list(known.as_deref(), &list);
            self.report.update(|polled| polled.changed += 1);
            self.lists.send_replace(Some(list.clone()));
        }
        let shown = Shown {
            good: Instant::now(),
            devices: list.len(),
            missing: self.missing.len(),
            collisions: self.news.collisions(),
        };
        self.report.update(|polled| {
            polled.list = Some(shown);
            polled.loading = false;
        });
        if let Some(saver) = &mut self.saver {
            saver.save(&list);
        }
    }

    /// Nothing is known, and why.
    pub fn failed(&mut self, cause: &anyhow::Error) {
        self.answered();
        self.report.update(|polled| polled.failed += 1);
        let consequence = match &self.last {
            Some(list) => format!("the last list of {} devices stands", list.len()),
            None => "there is no list yet, and none is sent".into(),
        };
        self.outage.failed(format!("{cause:#}"), &consequence);
    }

    fn answered(&mut self) {
        if let Some(asked) = self.asked.take() {
            let took = asked.elapsed().as_secs_f64();
            self.observed.poll_seconds.observe(took);
        }
    }

    pub fn line(&mut self, level: Level, line: std::fmt::Arguments<'_>) {
        self.news.line(level, line);
    }
}
