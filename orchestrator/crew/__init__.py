"""Who does the work: trainer, artist and critic, in this process or as Ray actors."""
