"""Controls that look at no layer, and the control task that a probe of a layer is also put to."""
