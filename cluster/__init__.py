"""One model over many processes: engine, expert dispatch, placement, and the actors that hold them."""
