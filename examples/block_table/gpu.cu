#include "../cuda_machine.cuh"
#include "rows.hpp"

Machine gpu() {
  return cuda_machine();
}
