#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "rolling.h"

static PyObject *hashes(PyObject *module, PyObject *arguments)
{
    const char *text;
    Py_ssize_t size, width, step;
    (void)module;

    if (!PyArg_ParseTuple(arguments, "y#nn:hashes", &text, &size, &width, &step))
        return NULL;
    if (width < 1 || step < 1 || (step & (step - 1)) != 0) {
        PyErr_SetString(PyExc_ValueError, "width must be positive and step a power of two");
        return NULL;
    }
    uint64_t *found = PyMem_New(uint64_t, size / step + 1);
    if (found == NULL)
        return PyErr_NoMemory();
    size_t count = roll((const unsigned char *)text, (size_t)size, (size_t)width, (size_t)step, found);
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list != NULL && i < count; i++) {
        PyObject *number = PyLong_FromUnsignedLongLong(found[i]);
        if (number == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, number);
    }
    PyMem_Free(found);
    return list;
}

static PyMethodDef methods[] = {
    {"hashes", hashes, METH_VARARGS,
     "hashes(text: bytes, width: int, step: int) -> list of hashes of passages"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_rolling", "Rolling hashes.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__rolling(void)
{
    return PyModuleDef_Init(&definition);
}
