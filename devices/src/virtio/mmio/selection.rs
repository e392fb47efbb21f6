//! What the driver has selected, and what it has seen of the configuration.

/// The driver's selectors, and its view of the configuration.
#[derive(Debug, Default)]
pub(super) struct Selection {
    pub(super) queue: u32,
    pub(super) device_features: u32,
    pub(super) driver_features: u32,
    pub(super) config: Vec<u8>,
    pub(super) generation: u32,
}

impl Selection {
    /// The driver looks at the configuration. It takes one for whole if no generation has passed meanwhile, so
    /// every change that it could have seen is one.
    pub(super) fn see(&mut self, config: Vec<u8>) {
        if config != self.config {
            self.config = config;
            self.generation = self.generation.wrapping_add(1);
        }
    }
}
