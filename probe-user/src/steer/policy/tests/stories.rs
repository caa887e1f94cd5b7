//! Single stories, as an operator would tell them.
