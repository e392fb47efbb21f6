//! The balloon and its queues.

use std::io;
use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::control::BalloonControl;
use super::metrics::Metrics;
use super::request;
use super::roles::{QUEUES, Role, Roles};
use super::state::State;
use super::{PAGE_SIZE, feature};
use crate::virtio::{Broken, Chain, Device, DeviceMemory, Guest};

const QUEUE_SIZES: [u16; QUEUES] = [256; QUEUES];
/// Where in the configuration the driver says how much is in the balloon, pages.
const ACTUAL: Range<usize> = 4..8;

/// What a balloon offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalloonOptions {
    /// The guest takes pages out of the balloon before it kills processes for lack of memory.
    pub deflate_on_oom: bool,
    /// The guest reports free pages, and they are freed.
    pub reporting: bool,
    /// The guest can be asked to hint at free pages.
    pub hinting: bool,
    /// How often the guest is asked for statistics; on request only otherwise.
    pub statistics_interval: Option<Duration>,
}

impl Default for BalloonOptions {
    /// All of it, with statistics on request.
    fn default() -> Self {
        Self {
            deflate_on_oom: true,
            reporting: true,
            hinting: true,
            statistics_interval: None,
        }
    }
}

/// A virtio-balloon.
pub struct Balloon {
    memory: Arc<dyn DeviceMemory>,
    options: BalloonOptions,
    control: BalloonControl,
    roles: Roles,
    /// The buffer that goes back to the driver to ask for statistics.
    statistics_buffer: Option<u16>,
    metrics: Metrics,
}

impl Balloon {
    /// An empty balloon, and the handle on it.
    ///
    /// # Errors
    ///
    /// The host gives no timer.
    pub fn new(
        memory: Arc<dyn DeviceMemory>,
        options: BalloonOptions,
    ) -> io::Result<(Self, BalloonControl)> {
        let bytes = memory.view().iter().map(|region| region.len()).sum();
        let control = BalloonControl::new(bytes, options.statistics_interval)?;
        let balloon = Self {
            memory,
            options,
            control: control.clone(),
            roles: Roles::default(),
            statistics_buffer: None,
            metrics: Metrics::default(),
        };
        Ok((balloon, control))
    }

    /// What a snapshot needs.
    pub fn state(&self) -> State {
        let shared = self.control.lock();
        State {
            target_pages: shared.target_pages,
            actual_pages: shared.actual_pages,
            features: shared.features,
            roles: self.roles,
            statistics_interval: shared.interval,
            statistics_buffer: self.statistics_buffer,
            hints: shared.hints.state(),
        }
    }

    /// Goes on where another balloon was when it was saved.
    ///
    /// # Errors
    ///
    /// The host's timer.
    pub fn restore(&mut self, state: &State) -> io::Result<()> {
        self.roles = state.roles;
        self.statistics_buffer = state.statistics_buffer;
        let mut shared = self.control.lock();
        shared.target_pages = state.target_pages;
        shared.actual_pages = state.actual_pages;
        shared.features = state.features;
        shared.interval = state.statistics_interval;
        shared.hints = super::hints::Hints::restore(&state.hints);
        shared.arm_timer()
    }

    /// Does what `chain` asks for. False: it stays with the device.
    fn serve(&mut self, role: Role, chain: Chain<'_>, guest: &Guest<'_>) -> Result<bool, Broken> {
        let memory = guest.memory();
        match role {
            Role::Inflate => {
                let (ranges, refused) = request::ranges(request::pages(chain, memory)?, memory);
                self.metrics.refused_bytes += refused * PAGE_SIZE;
                for range in ranges {
                    self.metrics.inflated_pages += (range.end - range.start) / PAGE_SIZE;
                    self.metrics.freed_bytes += self.free(range);
                }
            }
            Role::Deflate => {
                // Nothing to do: a page that is touched again is there again.
                self.metrics.deflated_pages += request::pages(chain, memory)?.len() as u64;
            }
            Role::Statistics => {
                self.control.lock().statistics = Some(request::statistics(chain, memory)?);
                self.metrics.statistics += 1;
                return Ok(false);
            }
            Role::Reporting => {
                let (ranges, refused) = request::lent(chain, memory);
                self.metrics.refused_bytes += refused;
                for range in ranges {
                    self.metrics.reported_bytes += self.free(range);
                }
            }
            Role::Hinting => self.hint(chain, guest)?,
        }
        Ok(true)
    }

    /// A command that the driver begins to answer, or pages that it hints at.
    fn hint(&mut self, chain: Chain<'_>, guest: &Guest<'_>) -> Result<(), Broken> {
        let memory = guest.memory();
        if chain.clone().readable().next().is_some() {
            let command = request::command(chain, memory)?;
            self.control.lock().hints.answers(command);
            return Ok(());
        }
        let (ranges, refused) = request::lent(chain, memory);
        self.metrics.ignored_hint_bytes += refused;
        for range in ranges {
            let bytes = range.end - range.start;
            match self.control.lock().hints.add(range) {
                true => self.metrics.hinted_bytes += bytes,
                false => self.metrics.ignored_hint_bytes += bytes,
            }
        }
        Ok(())
    }

    /// Frees a range: how many bytes that were.
    fn free(&mut self, range: Range<u64>) -> u64 {
        let len = range.end - range.start;
        match self.memory.free(range.start, len) {
            Ok(()) => len,
            Err(_) => {
                self.metrics.refused_bytes += len;
                0
            }
        }
    }

    /// Gives the statistics' buffer back to the driver, which fills it again.
    fn ask_for_statistics(&mut self, guest: &mut Guest<'_>) -> Result<(), Broken> {
        if let Some(queue) = self.roles.queue(Role::Statistics)
            && let Some(head) = self.statistics_buffer.take()
        {
            guest.give_back(queue, head, 0)?;
            guest.signal(queue)?;
        }
        Ok(())
    }
}

impl Device for Balloon {
    fn id(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn features(&self) -> u64 {
        let optional = [
            (self.options.deflate_on_oom, feature::DEFLATE_ON_OOM),
            (self.options.hinting, feature::HINTING),
            (self.options.reporting, feature::REPORTING),
        ];
        optional
            .into_iter()
            .filter(|(on, _)| *on)
            .fold(feature::STATISTICS, |all, (_, feature)| all | feature)
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> Vec<u8> {
        let shared = self.control.lock();
        // Page poison is not offered: its value is none.
        [
            shared.target_pages,
            shared.actual_pages,
            shared.hints.now().command,
            0,
        ]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect()
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        let mut shared = self.control.lock();
        let mut actual = shared.actual_pages.to_le_bytes();
        for (at, byte) in (offset..).zip(data) {
            if ACTUAL.contains(&at) {
                actual[at - ACTUAL.start] = *byte;
            }
        }
        shared.actual_pages = u32::from_le_bytes(actual);
    }

    fn sources(&self) -> Vec<RawFd> {
        vec![self.control.lock().timer_fd()]
    }

    fn start(&mut self, features: u64, guest: &mut Guest<'_>) -> Result<(), Broken> {
        self.roles = Roles::new(features, |queue| guest.uses(queue));
        let mut shared = self.control.lock();
        shared.features = Some(features);
        shared
            .arm_timer()
            .map_err(|error| Broken(format!("no timer for statistics: {error}")))
    }

    fn notified(&mut self, queue: usize, guest: &mut Guest<'_>) -> Result<(), Broken> {
        let Some(role) = self.roles.of(queue) else {
            return Ok(());
        };
        let mut given_back = false;
        loop {
            let Some(chain) = guest.pop(queue)? else {
                match guest.enable_notification(queue)? {
                    true => continue,
                    false => break,
                }
            };
            let head = chain.head_index();
            let back = match self.serve(role, chain, guest)? {
                true => Some(head),
                // There is one such buffer: an older one goes back.
                false => self.statistics_buffer.replace(head),
            };
            if let Some(head) = back {
                guest.give_back(queue, head, 0)?;
                given_back = true;
            }
        }
        if given_back {
            guest.signal(queue)?;
        }
        Ok(())
    }

    fn ready(&mut self, _source: usize, guest: &mut Guest<'_>) -> Result<(), Broken> {
        // Setting the timer anew also makes it unreadable, and never waits, as reading it may.
        self.control
            .lock()
            .arm_timer()
            .map_err(|error| Broken(format!("no timer for statistics: {error}")))?;
        self.ask_for_statistics(guest)
    }

    fn reset(&mut self) {
        self.roles = Roles::default();
        self.statistics_buffer = None;
        let mut shared = self.control.lock();
        shared.features = None;
        // Without a driver nothing is in the balloon: what was freed comes back when it is touched.
        shared.actual_pages = 0;
        shared.hints.reset();
        shared.statistics = None;
        // With no features the timer is only stopped, which cannot fail.
        let _ = shared.arm_timer();
    }

    fn metrics(&self) -> serde_json::Value {
        serde_json::to_value(self.metrics).unwrap_or_default()
    }
}
