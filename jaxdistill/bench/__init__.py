"""How fast a run goes: whole steps, their parts, the loader; measured and set against floors."""
