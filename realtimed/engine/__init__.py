"""The vLLM engine core as this daemon drives it: the only room that imports vLLM, and lazily."""
