"""How a run goes: its plan, its schedule, the engines, and what is stored."""
