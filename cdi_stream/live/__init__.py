"""The live path: one module a stage, and the pipeline around them."""
