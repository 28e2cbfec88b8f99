"""Small members of every family, trained in the small world of `vlprobe.scenes`: what they learnt is known."""
