"""The letters of array shapes, said once, and aliases for annotations.

| letter | axis                | letter | axis                        |
|--------|---------------------|--------|-----------------------------|
| B      | batch               | N      | attention heads             |
| T      | input length        | K      | size of one head            |
| U      | target length       | F      | MLP width                   |
| P      | prompt length       | V      | vocabulary                  |
| H      | model width         | M      | tasks                       |
| L      | layers              | S      | source prompts              |
| D      | depth of a prompt   | J      | key position in attention   |
| R      | rows while decoding (B x beams)                              |
"""

from jaxtyping import Array, Bool, Float, Int

__all__ = ['Array', 'Bool', 'Float', 'Int']
