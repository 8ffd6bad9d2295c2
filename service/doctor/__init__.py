"""What ``adaresnet doctor`` looks at: machine, GPU, settings and models, each for itself."""
