// Whether this process may use Intel AMX.
#pragma once

namespace fastrnn::cpu {

// Whether the CPU has tiles for bfloat16 and the system saves them, and lets this process use them.
// The system is asked once.
bool amx_is_supported();

}  // namespace fastrnn::cpu
