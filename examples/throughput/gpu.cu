#include "../cuda_machine.cuh"
#include "models.hpp"

Machine gpu() {
  return cuda_machine();
}
