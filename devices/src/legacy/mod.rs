//! Devices that every PC has had since 1981.
