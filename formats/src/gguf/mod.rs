//! Reading and writing GGUF.
