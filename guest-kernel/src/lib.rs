//! The bundled guest.
#![no_std]
