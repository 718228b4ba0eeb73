//! Every op: f32 against f64, gradients against differences, adjoints as identities.

mod support;

mod ops {
    mod convolution;
    mod network;
    mod object;
    mod optimiser;
    mod physics;
    mod spectral;
}
