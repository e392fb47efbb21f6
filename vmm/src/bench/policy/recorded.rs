//! Traces that were recorded from guests.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use gmem_core::policy::simulation::recorded::{Recording, RecordingError};
use serde::Serialize;

use super::{CAPACITIES, Row};

/// The fewest pages of memory for which policies are simulated.
const LEAST_CAPACITY: u32 = 32;

/// A recording and what policies make of it.
#[derive(Clone, Debug, Serialize)]
pub struct Recorded {
    /// The file's name, without its extension.
    pub trace: String,
    /// Pages of the guest.
    pub guest_pages: u64,
    /// Pages that it touched: what sizes of memory are percent of.
    pub pages: u32,
    /// Touches in the recording.
    pub touches: usize,
    /// Pages that were let in at once while it was recorded.
    pub window: u32,
    /// In each size of memory.
    pub rows: Vec<Row>,
}

/// Why a recording was not simulated.
#[derive(Debug, thiserror::Error)]
#[error("recording {path}: {source}")]
pub struct TraceError {
    path: PathBuf,
    source: TraceErrorKind,
}

#[derive(Debug, thiserror::Error)]
enum TraceErrorKind {
    #[error(transparent)]
    Read(#[from] RecordingError),
    #[error(
        "{percent}% of the {pages} pages that it touches are fewer than {least}: uses of pages are not seen in it for so little \
         memory; record more of them"
    )]
    Small {
        percent: u32,
        pages: u32,
        least: u32,
    },
}

/// A recording, ready to be simulated.
pub(super) struct Trace {
    touches: Vec<u32>,
    /// All touches are of pages below.
    below: u32,
    /// Without rows.
    figures: Recorded,
}

impl Trace {
    /// Reads the recording at `path`.
    pub(super) fn read(path: &Path) -> Result<Self, TraceError> {
        Self::of(path).map_err(|source| TraceError {
            path: path.to_owned(),
            source,
        })
    }

    fn of(path: &Path) -> Result<Self, TraceErrorKind> {
        let file = File::open(path).map_err(RecordingError::from)?;
        let recording = Recording::read(BufReader::new(file))?;
        let pages = recording.touches.iter().collect::<BTreeSet<_>>().len() as u32;
        let least = recording.window.max(LEAST_CAPACITY);
        let percent = CAPACITIES.into_iter().min().unwrap_or(100);
        if u64::from(pages) * u64::from(percent) / 100 < u64::from(least) {
            return Err(TraceErrorKind::Small {
                percent,
                pages,
                least,
            });
        }
        let (touches, below) = recording.compacted();
        let name = path.file_stem().unwrap_or(path.as_os_str());
        Ok(Self {
            below,
            figures: Recorded {
                trace: name.to_string_lossy().into_owned(),
                guest_pages: recording.guest_pages,
                pages,
                touches: touches.len(),
                window: recording.window,
                rows: Vec::new(),
            },
            touches,
        })
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.figures.trace
    }

    /// Simulates it.
    pub(super) fn row(&self, capacity_percent: u32) -> Row {
        let Recorded { trace, pages, .. } = &self.figures;
        Row::of(trace, &self.touches, self.below, *pages, capacity_percent)
    }

    /// The figures, with `rows`.
    pub(super) fn into_figures(self, rows: Vec<Row>) -> Recorded {
        Recorded {
            rows,
            ..self.figures
        }
    }
}
