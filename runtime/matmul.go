package runtime

var matmulOps = []operator{}
