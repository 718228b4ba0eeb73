//! The engine measured on the machine at hand: is every op right, and how fast is it?

pub mod bench;
pub mod cases;
#[cfg(feature = "cust")]
pub mod cust;
pub mod scale;
pub mod selftest;
