//! Layers of the generator, and regularisers of its output.
