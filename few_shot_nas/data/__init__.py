"""Episodes from images: sources (one per dataset), the cache they are packed into, the sampler and the DataModule."""
