//! What the monitor sees and changes of a balloon while the guest runs.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm_sys_util::timerfd::TimerFd;

use super::hints::{Hinting, Hints};
use super::statistics::Statistics;
use super::{PAGE_SIZE, feature};

/// Why a target cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TargetError {
    /// More than the guest has.
    #[error("a balloon of {bytes} bytes does not fit the guest's memory of {memory}: ask for less")]
    TooLarge {
        /// What was asked for.
        bytes: u64,
        /// What the guest has.
        memory: u64,
    },
    /// Not whole pages.
    #[error("a balloon holds pages of 4096 bytes, and {0} bytes are no multiple of that")]
    NotPages(u64),
}

/// Why there are no statistics.
#[derive(Debug, thiserror::Error)]
pub enum StatisticsError {
    /// No driver, or one that knows nothing of them.
    #[error("the guest's balloon driver sends no statistics, or is not running yet")]
    NoDriver,
    /// The timer.
    #[error("the host's timer refuses: {0}")]
    Timer(#[from] io::Error),
}

/// Why there are no hints.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HintingError {
    /// No driver, or one that knows nothing of them.
    #[error("the guest's balloon driver does not hint at free pages, or is not running yet")]
    NoDriver,
}

/// A handle on a balloon, which does not wait for what the device is doing.
///
/// After a change of the target or of hinting, call
/// [`MmioDevice::config_changed`](crate::virtio::MmioDevice::config_changed): the driver looks then.
#[derive(Clone, Debug)]
pub struct BalloonControl(Arc<Mutex<Shared>>);

/// What control and device share. Its lock is held for a few instructions, and never while guest memory is touched.
#[derive(Debug)]
pub(super) struct Shared {
    memory_pages: u64,
    pub(super) target_pages: u32,
    pub(super) actual_pages: u32,
    /// What the driver has agreed to; none while there is no driver, and then the timer stands still.
    pub(super) features: Option<u64>,
    pub(super) hints: Hints,
    pub(super) statistics: Option<Statistics>,
    pub(super) interval: Option<Duration>,
    timer: Timer,
}

struct Timer(TimerFd);

impl std::fmt::Debug for Timer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Timer").field(&self.0.as_raw_fd()).finish()
    }
}

impl BalloonControl {
    pub(super) fn new(memory_bytes: u64, interval: Option<Duration>) -> io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Shared {
            memory_pages: memory_bytes / PAGE_SIZE,
            target_pages: 0,
            actual_pages: 0,
            features: None,
            hints: Hints::new(),
            statistics: None,
            interval,
            timer: Timer(TimerFd::new()?),
        }))))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the guest for a balloon of `bytes`, a multiple of 4096. It gives what it can spare, when it can.
    ///
    /// # Errors
    ///
    /// No such balloon can be; the target stays as it was.
    pub fn set_target_bytes(&self, bytes: u64) -> Result<(), TargetError> {
        if !bytes.is_multiple_of(PAGE_SIZE) {
            return Err(TargetError::NotPages(bytes));
        }
        let mut shared = self.lock();
        let pages = u32::try_from(bytes / PAGE_SIZE)
            .ok()
            .filter(|pages| u64::from(*pages) <= shared.memory_pages);
        shared.target_pages = pages.ok_or(TargetError::TooLarge {
            bytes,
            memory: shared.memory_pages * PAGE_SIZE,
        })?;
        Ok(())
    }

    /// What the guest was asked for, bytes.
    pub fn target_bytes(&self) -> u64 {
        u64::from(self.lock().target_pages) * PAGE_SIZE
    }

    /// How much the driver says is in the balloon, bytes.
    pub fn actual_bytes(&self) -> u64 {
        u64::from(self.lock().actual_pages) * PAGE_SIZE
    }

    /// The newest statistics, if any have arrived.
    pub fn statistics(&self) -> Option<Statistics> {
        self.lock().statistics.clone()
    }

    /// Asks for statistics now. They show up in [`Self::statistics`] when the guest gets round to it.
    ///
    /// # Errors
    ///
    /// There is nobody to ask, or no timer.
    pub fn request_statistics(&self) -> Result<(), StatisticsError> {
        let mut shared = self.lock();
        if !shared.agreed(feature::STATISTICS) {
            return Err(StatisticsError::NoDriver);
        }
        Ok(shared.timer.0.reset(SOON, None).map_err(io::Error::from)?)
    }

    /// Asks for statistics every `interval` from now on, or only on request. Holds also for drivers to come.
    ///
    /// # Errors
    ///
    /// The host's timer.
    pub fn set_statistics_interval(
        &self,
        interval: Option<Duration>,
    ) -> Result<(), StatisticsError> {
        let mut shared = self.lock();
        shared.interval = interval;
        Ok(shared.arm_timer()?)
    }

    /// Begins free page hinting anew: all hints from here on are of this command, whose number is returned.
    /// Writes have to be tracked from before this call on, see [`Hinting`].
    ///
    /// # Errors
    ///
    /// There is nobody to ask.
    pub fn begin_hinting(&self) -> Result<u32, HintingError> {
        let mut shared = self.lock();
        if !shared.agreed(feature::HINTING) {
            return Err(HintingError::NoDriver);
        }
        Ok(shared.hints.begin())
    }

    /// Ends free page hinting and forgets the hints: the guest has its pages back.
    pub fn end_hinting(&self) {
        self.lock().hints.end();
    }

    /// How far free page hinting is.
    pub fn hinting(&self) -> Hinting {
        self.lock().hints.now()
    }

    /// The guest-physical addresses hinted at by the present command, in the driver's order.
    pub fn hints(&self) -> Vec<Range<u64>> {
        self.lock().hints.ranges().to_vec()
    }
}

/// The shortest time that a timer knows.
const SOON: Duration = Duration::from_nanos(1);

impl Shared {
    /// Whether a driver is ready that has agreed to `feature`.
    pub(super) fn agreed(&self, feature: u64) -> bool {
        self.features.is_some_and(|agreed| agreed & feature != 0)
    }

    /// The descriptor that is readable when statistics are to be asked for.
    pub(super) fn timer_fd(&self) -> RawFd {
        self.timer.0.as_raw_fd()
    }

    /// Sets the timer for the next request, or to nothing. It is not readable afterwards.
    pub(super) fn arm_timer(&mut self) -> io::Result<()> {
        let armed = match self.interval {
            Some(interval) if self.agreed(feature::STATISTICS) => {
                self.timer.0.reset(interval.max(SOON), None)
            }
            _ => self.timer.0.clear(),
        };
        Ok(armed?)
    }
}
